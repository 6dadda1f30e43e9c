"""What methods and estimators say of themselves."""

import re

import pytest
from merging import explain, hessians, methods
from merging.commands.command_line import parse
from merging.commands.merge_commands import MERGE

EXTRAS = methods.INPUTS.keys() - {"base", "models"}


@pytest.mark.parametrize("name", methods.names())
def test_every_method_is_complete(name: str) -> None:
    text = explain.method(name)
    assert explain.formula(name)
    for key in methods.inputs(name):
        assert f"\n  {key} " in text
    for heading in ("Inputs", "Options", "Runs", "Example"):
        assert f"\n{heading}\n" in text
    assert re.search(r"\n  models: \d", text)
    assert explain.group(name) in explain.GROUPS


@pytest.mark.parametrize("name", methods.names())
def test_every_example_is_a_merge_that_could_start(name: str) -> None:
    words = explain.example(name).split()
    assert words[:2] == ["merging", "merge"]
    values = parse(MERGE, words[2:])
    extras = {key: its for key, its in values.items() if key in EXTRAS and its is not None}
    methods.check_call(name, {}, extras, tasks=values["models"], has_base=values["base"] is not None)


def test_no_option_of_a_method_has_the_flag_of_something_else() -> None:
    taken = {its.name for its in MERGE.arguments} | {"config"}
    for settings in MERGE.settings.values():
        taken |= set(settings.__dataclass_fields__)
    for name in methods.names():
        assert not taken & {field.name for field in explain.options_of(name)}, name


def test_the_overview_groups_by_what_is_needed() -> None:
    text = explain.overview()
    end = text.partition("In one line each")[2]
    place = {name: end.index(f"\n  {name} ") for name in methods.names()}
    first = [end.index(f"\n{title}\n") for title in explain.GROUPS]
    assert first == sorted(first)
    assert first[0] < place["ties"] < first[1] < place["tall_masks"] < first[2]
    assert first[2] < place["gradient_matching"] < first[3] < place["regmean"]
    for name in methods.names():
        assert text.count(f"\n{name}\n") == 1


@pytest.mark.parametrize(
    ("name", "lines"),
    [
        ("dare_ties", ["models: 1 or more beside the base", "random: yes", "memory: small pieces"]),
        ("slerp", ["models: 1 beside the base", "random: no", "reads first: numbers of each parameter"]),
        ("tsv_m", ["memory: whole parameters", "reads first: nothing; one pass"]),
        ("fisher", ["numbers of the whole model (another pass"]),
        ("multislerp", ["(only needed by some options, or optional)"]),
    ],
)
def test_how_a_method_runs(name: str, lines: list[str]) -> None:
    text = explain.method(name)
    for line in lines:
        assert line in text


@pytest.mark.parametrize("name", hessians.names())
def test_every_estimator_says_what_it_makes(name: str) -> None:
    text = explain.estimators()
    assert f"{name}\n  " in text
    assert explain.estimator_title(name) in explain.estimator(name)


def test_where_labels_come_from() -> None:
    assert "labels: none, drawn by a seed" in explain.estimator("fisher_mc")
    assert "labels: of the data" in explain.estimator("fisher_empirical")
    assert "labels: none\n" in explain.estimator("gram")
