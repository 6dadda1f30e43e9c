"""Model cards: what they say of method, inputs and licences; their file makes the same model again."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from merging.commands import cli
from merging.files import hub
from merging.merge.model_card import CARD_NAME, card, described, front_matter, write_card
from merging.merge.streaming import merge_checkpoints
from safetensors.torch import load_file

COMMIT = "0123456789abcdef" + 24 * "0"

Random = Callable[..., Any]


@pytest.fixture
def merged(write_model: Callable[..., Path], random_tensors: Random, tmp_path: Path) -> Path:
    """A merge of ``a`` and ``b`` on ``base``, with options, policy and output that are not the defaults."""
    folders = {name: write_model(name, random_tensors(seed)) for seed, name in enumerate(("base", "a", "b"))}
    merge_checkpoints(
        method="dare_linear",
        options={"density": [0.5, 0.25], "weights": {"a": 0.25, "b": 1.0}},
        base=folders["base"],
        models={"a": folders["a"], "b": folders["b"]},
        extras={},
        policy={"exclude": ["classifier.*"]},
        output={"dtype": "bfloat16"},
        out=tmp_path / "merged",
    )
    return tmp_path / "merged"


def text_of(folder: Path) -> str:
    return (folder / CARD_NAME).read_text()


def record_of(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "merge.json").read_text())
    return found


def test_the_method_and_all_options(merged: Path) -> None:
    text = text_of(merged)
    assert text.startswith("---\n")
    assert "# Merge of a and b by dare_linear\n" in text
    assert "arXiv:2311.03099" in text
    assert "theta  = theta_0 + lambda sum_t" in text
    assert "Made of 2 models and the base by model-merging" in text
    assert "59 parameters were merged, 18 kept or copied." in text
    assert "| `density` | `[0.5, 0.25]` |  |" in text
    assert "| `seed` | `0` | default |" in text


def test_its_file_makes_the_same_model_again(
    merged: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the places filled in, and nothing else."""
    (block,) = re.findall(r"```json\n(.*?)\n```", text_of(merged), flags=re.S)
    assert str(tmp_path) not in text_of(merged)
    monkeypatch.chdir(tmp_path)
    Path("again.json").write_text(block.replace("path/to/", "").replace('"merged"', '"again"'))
    assert cli.main(["merge", "--config", "again.json"]) == 0
    expected, found = (load_file(folder / "model.safetensors") for folder in (merged, tmp_path / "again"))
    assert expected.keys() == found.keys()
    assert all(expected[name].equal(found[name]) for name in expected)
    assert text_of(tmp_path / "again") == text_of(merged)


def test_inputs_are_named_by_their_content(merged: Path) -> None:
    sources = record_of(merged)["sources"]
    for label in ("base", "models['a']"):
        short = sources[label]["weights_hash"].removeprefix("samples:")[:12]
        assert re.search(rf"\| `{re.escape(label)}` \| `\w+`, local \| weights `{short}` ", text_of(merged))


def test_statistics(
    write_model: Callable[..., Path],
    write_hessian_of: Callable[..., Path],
    random_tensors: Random,
    tmp_path: Path,
) -> None:
    models = {name: write_model(name, random_tensors(seed)) for seed, name in enumerate("ab")}
    squares = {key: its.square() for key, its in random_tensors(5).items()}
    hessians = {name: write_hessian_of(model, squares) for name, model in models.items()}
    merge_checkpoints(
        method="fisher",
        options={},
        base=None,
        models=models,
        extras={"hessians": {"a": hessians["a"], "b": {"hessian": hessians["b"], "scale": 2.5}}},
        out=tmp_path / "out",
    )
    text = text_of(tmp_path / "out")
    assert "| `hessians['a']` | fisher_exact | 5 | weights `" in text
    assert text.count("| 2.5 |") == 1
    assert '"hessian": "path/to/hessians/b",\n      "scale": 2.5' in text


# --- licences, languages, ids ---


def sources(*heads: str | None, folder: Path) -> dict[str, Any]:
    """Sources whose own cards start like that."""
    found = {}
    for number, head in enumerate(heads):
        place = folder / f"input{number}"
        place.mkdir()
        if head is not None:
            (place / CARD_NAME).write_text(head)
        found[f"models['{number}']"] = {"folder": str(place), "weights_hash": f"samples:{number:064x}"}
    return found


def made(its: dict[str, Any], **more: Any) -> tuple[dict[str, Any], str]:
    """Front matter and text of the card of a merge of such sources."""
    record = {
        "method": "average",
        "options": {"weights": None, "normalize": True},
        "tasks": [str(number) for number in range(len(its))],
        "sources": described(its),
        "versions": {"model-merging": "1"},
    }
    text = card({**record, **more})
    return yaml.safe_load(text.split("---\n")[1]), text


def test_a_licence_that_all_share(tmp_path: Path) -> None:
    head, text = made(sources(*2 * ["---\nlicense: mit\nlanguage: de\n---\n# A"], folder=tmp_path))
    assert head["license"] == "mit"
    assert head["language"] == ["de"]
    assert "All inputs have the licence mit." in text
    assert head["tags"][0] == "merge"
    assert "base_model" not in head


def test_a_licence_with_a_name_of_its_own(tmp_path: Path) -> None:
    own = "---\nlicense: other\nlicense_name: gemma\nlicense_link: LICENSE\n---\n"
    head, text = made(sources(own, own, folder=tmp_path))
    assert (head["license"], head["license_name"], head["license_link"]) == ("other", "gemma", "LICENSE")
    assert "licence gemma" in text


@pytest.mark.parametrize(
    ("heads", "said"),
    [
        (("---\nlicense: mit\n---", "---\nlicense: gpl\n---\n"), "licences of the inputs differ"),
        (("---\nlicense: mit\n---\n", None), "The licence of input1 is not known"),
        (("# no front matter", "---\nlicense: [\n---\n"), "The licence of input0 and input1 is not known"),
    ],
)
def test_no_licence_is_claimed(heads: tuple[str | None, ...], said: str, tmp_path: Path) -> None:
    head, text = made(sources(*heads, folder=tmp_path))
    assert "license" not in head
    assert said in text


def test_hub_ids(tmp_path: Path) -> None:
    cached = tmp_path / f"models--you--food-model/snapshots/{COMMIT}"
    cached.mkdir(parents=True)
    downloaded = tmp_path / "downloaded"
    downloaded.mkdir()
    (downloaded / "source.json").write_text(json.dumps({"source": "me/hotels", "revision": COMMIT}))
    its = {
        f"models['{task}']": {"folder": str(place), "weights_hash": "samples:00"}
        for task, place in (("food", cached), ("hotels", downloaded))
    }
    head, text = made(its)
    assert head["base_model"] == ["me/hotels", "you/food-model"]
    assert head["base_model_relation"] == "merge"
    assert f'"food": "you/food-model@{COMMIT}"' in text
    assert "[me/hotels](https://huggingface.co/me/hotels)" in text
    assert hub.identity(tmp_path) is None


def test_front_matter_of_strange_files(tmp_path: Path) -> None:
    file = tmp_path / CARD_NAME
    assert front_matter(file) == {}
    for text in ("", "---\n", "---\n- a\n---\n", "\xff"):
        file.write_text(text, encoding="latin-1")
        assert front_matter(file) == {}
    file.write_text("\ufeff---\r\nlicense: mit\r\n---\r\n")
    assert front_matter(file) == {"license": "mit"}


def test_values_in_a_table(tmp_path: Path) -> None:
    entries = [{"filter": f"layer.{number}.*|x", "value": 0.5} for number in range(9)]
    its = sources(None, folder=tmp_path)
    few, many = (
        made(its, method="task_arithmetic", options={"scaling_factor": value})[1]
        for value in (entries[:1], entries)
    )
    assert '| `scaling_factor` | `[{"filter": "layer.0.*\\|x", "value": 0.5}]` |' in few
    assert "| `scaling_factor` | in the file below |" in many
    assert '"filter": "layer.8.*|x"' in many


# --- written anew ---


def test_what_a_check_found_is_added(merged: Path) -> None:
    before = text_of(merged)
    found = {
        "num_parameters": 1234,
        "moved_share": 0.5,
        "layers": {"a": {"norm_ratio": 0.9}, "b": {"norm_ratio": 1.25}},
        "tokenizer": "32 tokens",
        "forward": "not tried",
        "problems": ["too small"],
    }
    write_card(merged, verification=found)
    text = text_of(merged)
    assert text.startswith(before.rstrip())
    for line in (
        "1,234 parameters",
        "50.0% of them",
        "0.900 to 1.250 times",
        "32 tokens",
        "**problem**: too",
    ):
        assert line in text
    write_card(merged)
    assert text_of(merged) == before
    assert [path.name for path in merged.iterdir() if path.name.startswith(".")] == []


def test_adapters(tmp_path: Path) -> None:
    head, text = made(
        sources(None, folder=tmp_path),
        method="ties",
        options={"density": 0.5},
        result="svd",
        rank=4,
        saved={"policy": "error", "tensors": []},
    )
    assert head["library_name"] == "peft"
    assert "Made of 1 adapter by" in text
    assert '"result": "svd",\n  "rank": 4,\n' in text


def test_a_mergekit_file(tmp_path: Path) -> None:
    its = sources(None, None, folder=tmp_path)
    its = {value["folder"]: value for value in its.values()}
    its["e"] = {"folder": "e", "weights_hash": "samples:00"}  # relative to the file
    file = f"merge_method: linear\nmodels:\n- model: {tmp_path}/input0\n- model: e\n"
    text = made({**its, "mergekit": file})[1]
    assert "# Merge of input0, input1 and e by average" in text
    assert "merge_method: linear\nmodels:\n- model: path/to/input0\n- model: e\n```" in text
    assert str(tmp_path) not in text
