import json
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from merging import methods
from merging.commands import cli
from merging.commands.command_line import Argument, Command, dataset, dataset_or_file, parse
from merging.errors import OptionError
from merging.options import parse as options_parse
from merging.training.options import TrainingOptions


def run(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    code = cli.main(words)
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def command(name: str) -> Command:
    return next(command for command in cli.COMMANDS if command.name == name)


@pytest.mark.parametrize("words", [[], ["--help"]])
def test_help_lists_the_commands(capsys: pytest.CaptureFixture[str], words: list[str]) -> None:
    code, out, _ = run(capsys, *words)
    assert code == 0
    for name in (*(its.name for its in cli.COMMANDS), "methods", "statistics"):
        assert f"\n  {name} " in out


@pytest.mark.parametrize("name", [command.name for command in cli.COMMANDS])
def test_each_command_explains_itself(capsys: pytest.CaptureFixture[str], name: str) -> None:
    with pytest.raises(SystemExit) as stop:
        cli.main([name, "--help"])
    assert stop.value.code == 0
    out = capsys.readouterr().out
    for argument in command(name).arguments:
        assert argument.flag in out
    assert "example:" in out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["mrge"], "merging: unknown command 'mrge'. Did you mean 'merge'?"),
        (
            ["methods", "task_arithmatic"],
            "unknown merge method 'task_arithmatic'. Did you mean 'task_arithmetic'?",
        ),
        (["merge", "--method", "avrage"], "unknown merge method 'avrage'. Did you mean 'average'?"),
        (["merge", "--methd", "x"], "merging merge: unknown flag '--methd'. Did you mean '--method'?"),
        (["merge", "--method", "average", "--delta-0", "1"], "merging merge: unknown flag '--delta-0'"),
        (["merge", "--scaling-factor", "1"], "unknown flag '--scaling-factor'"),
        (["merge", "--scaling-factor", "1"], "More are known with --method"),
        (["merge", "--method", "average"], "merging merge: --models, --out must be given"),
        (["merge", "--method"], "merging merge: argument --method: expected one argument"),
        (
            ["merge", "--method", "task_arithmetic", "--scaling-factor", "much"],
            "--scaling-factor must be float | {text: float}, got 'much'",
        ),
        (
            ["merge", "--method", "average", "--models", "model", "--out", "x"],
            "--models: expected TASK=FOLDER",
        ),
        (["merge", "--method", "average", "--models", "a=x", "a=y", "--out", "x"], "task 'a' is given twice"),
        (["hessian", "--data", "folder"], "cannot read data set 'folder'. Write FOLDER:SPLIT"),
        (["train", "--seed", "one"], "not JSON: 'one'"),
        (["train", "--architecture", "{vit"], "not JSON: '{vit'"),
        (["evaluate", "--config", "nowhere.json"], "cannot read nowhere.json: No such file"),
        (["download", "--out", "x"], "give exactly one of --source (data) and --model"),
        (
            ["download", "--model", "m", "--folder", "f", "--out", "x"],
            "--folder is for data, not for a model",
        ),
    ],
)
def test_mistakes_are_one_line_and_exit_code_2(
    capsys: pytest.CaptureFixture[str], words: list[str], message: str
) -> None:
    code, out, err = run(capsys, *words)
    assert code == 2
    assert out == ""
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert message in err


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            '{"method": "average", "modles": {}}',
            "merging merge: unknown key 'modles'. Did you mean 'models'?",
        ),
        ("[1]", "must hold a JSON object {...}, not list"),
        ("{", "is no JSON"),
    ],
)
def test_mistakes_in_the_json_file(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, text: str, message: str
) -> None:
    file = tmp_path / "merge.json"
    file.write_text(text)
    code, _, err = run(capsys, "merge", "--config", str(file))
    assert code == 2
    assert message in err


def test_finished_results_are_kept(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model/weights").write_text("precious")
    code, _, err = run(
        capsys, "merge", "--method", "average", "--models", "a=x", "--out", str(tmp_path / "model")
    )
    assert code == 2
    assert "exists, and finished results are not overwritten" in err
    assert (tmp_path / "model/weights").read_text() == "precious"


def test_flags_win_over_the_file(tmp_path: Path) -> None:
    file = tmp_path / "merge.json"
    config: dict[str, Any] = {
        "method": "gradient_matching",
        "base": "base",
        "models": {"a": "x"},
        "options": {"scaling_factor": 0.5, "delta_0": 1e-6},
        "out": "here",
    }
    file.write_text(json.dumps(config))
    words = ["--config", str(file), "--out", "there", "--scaling-factor", "-1", "--models", "b=y", "c=z=w"]
    found = {key: value for key, value in parse(command("merge"), words).items() if value}
    assert found == {
        "method": "gradient_matching",
        "base": "base",
        "models": {"b": "y", "c": "z=w"},
        "options": {"scaling_factor": -1.0, "delta_0": 1e-6},
        "out": "there",
    }


def test_data_sets_in_the_file_are_written_as_on_the_command_line(tmp_path: Path) -> None:
    file = tmp_path / "evaluate.json"
    whole = {"data": "data/sst2", "split": "test", "shuffle_seed": 1}
    config = {"task_type": "t", "model": "m", "data": {"a": "data/yelp:test[:9]", "b": whole}, "out": "o"}
    file.write_text(json.dumps(config))
    found = parse(command("evaluate"), ["--config", str(file)])["data"]
    assert found == {"a": {"data": "data/yelp", "split": "test[:9]"}, "b": whole}
    file.write_text(json.dumps({**config, "data": "data/yelp:train"}))
    found = parse(command("train"), ["--config", str(file)])["data"]
    assert found == {"data": "data/yelp", "split": "train"}


@pytest.mark.parametrize("name", [its.name for its in cli.COMMANDS if its.name != "report"])
def test_the_example_of_a_command_is_complete(name: str) -> None:
    """Every flag exists, and the options are those that a text model needs."""
    line = command(name).epilog.removeprefix("example:\n").replace("\\\n", " ")
    program, *words = shlex.split(line)
    given = name.split()
    assert [program, *words[: len(given)]] == ["merging", *given]
    values = parse(command(name), words[len(given) :])
    if name == "train":
        options_parse(TrainingOptions, values["options"], owner="training")
    if name in ("train", "hessian", "evaluate", "predict"):
        assert values["options"]["max_tokens"] > 0


def test_types_of_flags() -> None:
    words = ["--method", "task_arithmetic", "--models", "a=x", "--out", "o", "--scaling-factor", '{"a": 1}']
    assert parse(command("merge"), words)["options"] == {"scaling_factor": {"a": 1.0}}
    words = ["--task-type", "image_classification", "--model", "m", "--data", "f:train", "--out", "o"]
    found = parse(command("hessian"), [*words, "--max-examples", "none", "--batch-size", "8", "--seed", "3"])
    assert found["options"] == {"max_examples": None, "batch_size": 8}
    assert found["seed"] == 3
    assert found["estimator"] is found["statistics"] is None  # which means fisher_mc
    assert parse(command("hessian"), [*words, "--statistics", "gram", "kfac_mc"])["statistics"] == [
        "gram",
        "kfac_mc",
    ]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("data/imdb:train", {"data": "data/imdb", "split": "train"}),
        ("d:train[:20%]", {"data": "d", "split": "train[:20%]"}),
        ("/a b/c:train[10%:]+test", {"data": "/a b/c", "split": "train[10%:]+test"}),
        ("a:train,b:test", [{"data": "a", "split": "train"}, {"data": "b", "split": "test"}]),
        ('{"data": "a", "split": "train"}', {"data": "a", "split": "train"}),
    ],
)
def test_data_sets(text: str, expected: Any) -> None:
    assert dataset(text) == expected


def test_a_file_to_predict(tmp_path: Path) -> None:
    file = tmp_path / "texts:1.csv"
    file.write_text("text\n")
    assert dataset_or_file(str(file)) == str(file)
    assert dataset_or_file("folder:test") == {"data": "folder", "split": "test"}


def test_lists_of_values() -> None:
    rows = Argument(name="rows", help="", metavar="JSON", read=json.loads, many=True)
    found = parse(Command(name="x", help="", arguments=[rows], run=str), ["--rows", "1", "2"])
    assert found == {"rows": [1, 2]}


def test_methods_lists_all(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "methods")
    assert code == 0
    for name in methods.names():
        assert f"{name}\n  " in out
    assert "theta = theta_0 + sum_t alpha_t (theta_t - theta_0)" in out
    assert "inputs: base, models, base_hessian, hessians" in out
    assert "arXiv:2310.12808" in out


@pytest.mark.parametrize("name", methods.names())
def test_methods_explains_one(capsys: pytest.CaptureFixture[str], name: str) -> None:
    code, out, _ = run(capsys, "methods", name)
    assert code == 0
    assert "theta" in out
    assert f"merging merge --method {name}" in out
    for key in methods.inputs(name):
        assert f"\n  {key} " in out


def test_options_of_a_method_are_explained(capsys: pytest.CaptureFixture[str]) -> None:
    out = run(capsys, "methods", "gradient_matching")[1]
    assert "  delta_0: float (default 1e-12)\n    Prior precision, > 0" in out


@pytest.mark.parametrize("words", [["methods"], ["merge", "--method", "fisher", "--help"], ["--help"]])
def test_explaining_imports_nothing_heavy(words: list[str]) -> None:
    script = (
        "import sys\nfrom merging.commands.cli import main\n"
        "try:\n    main(sys.argv[1:])\nexcept SystemExit:\n    pass\n"
        "heavy = {'torch', 'transformers', 'datasets', 'numpy'} & set(sys.modules)\n"
        "sys.exit(' '.join(heavy) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", script, *words], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_an_interrupted_command_says_so(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(name: str | None = None) -> str:
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "write", interrupt)
    assert run(capsys, "methods") == (130, "", "stopped\n")


def test_python_dash_m() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "merging", "nothing"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert done.stderr.startswith("error: merging: unknown command 'nothing'")


def test_report(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    folder = tmp_path / "evaluation/predictions"
    folder.mkdir(parents=True)
    (folder / "yelp.jsonl").write_text('{"label": 1, "prediction": 1}\n{"label": 0, "prediction": 1}\n')
    row = {"label": "base", "kind": "base", "seed": 0, "evaluation": str(folder.parent)}
    out = str(tmp_path / "table")
    code, text, err = run(capsys, "report", "--rows", json.dumps(row), "--out", out, "--reference", "none")
    assert (code, err) == (0, "")
    assert "| base | 50.0 | 50.0 [" in text
    assert text.endswith(f"wrote {out}\n")


def test_unreadable_values_are_option_errors() -> None:
    with pytest.raises(OptionError, match="--data"):
        parse(command("evaluate"), ["--data", "yelp"])


PAGES = [Path(__file__).parents[3] / name for name in ("README.md", "docs/merging.md", "docs/adapters.md")]


def shown_commands() -> list[str]:
    """Every `merging` command that stands in a block of its own in the documentation."""
    lines = []
    for page in PAGES:
        text = page.read_text().replace("\\\n", " ")
        blocks = text.split("```")[1::2]
        lines += [line for block in blocks if block.startswith("\n") for line in block.splitlines()]
    return [line for line in lines if line.startswith("merging ")]


@pytest.mark.parametrize("line", shown_commands())
def test_commands_of_the_documentation(line: str) -> None:
    """They parse, and merges could start; whoever changes the page runs them."""
    name, *words = shlex.split(line, comments=True)[1:]
    if name in ("methods", "statistics", "--help") or "--help" in words or ".yml" in line:
        return
    values = parse(command(name), words)
    if name == "merge":
        extras = {key: its for key, its in values.items() if key in methods.INPUTS and its is not None}
        base, tasks = extras.pop("base", None), extras.pop("models")
        methods.check_call(
            values["method"], values["options"], extras, tasks=tasks, has_base=base is not None
        )


def test_the_documentation_shows_commands() -> None:
    assert len(shown_commands()) > 10
