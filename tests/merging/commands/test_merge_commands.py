"""What ``merging merge`` and ``merging push`` do with options, adapters and the Hub."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import huggingface_hub
import pytest
import torch
import yaml
from merging import methods
from merging.commands import cli
from merging.commands.command_line import parse
from merging.commands.merge_commands import MERGE, from_mergekit
from merging.files import hub
from merging.files.checkpoints import open_checkpoint
from merging.merge.streaming import merge_tensors
from safetensors.torch import load_file, save_file
from torch import Tensor

COMMIT = "0123456789abcdef" + 24 * "0"
NAMES = ("base", "a", "b")

Tensors = Mapping[str, Tensor]


@pytest.fixture
def tensors(random_tensors: Callable[..., dict[str, Tensor]]) -> dict[str, dict[str, Tensor]]:
    return {name: random_tensors(seed) for seed, name in enumerate(NAMES)}


@pytest.fixture
def folders(
    write_model: Callable[..., Path],
    tensors: dict[str, dict[str, Tensor]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Path:
    """The current directory, with the models base, a, b."""
    for name, its in tensors.items():
        write_model(name, its)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def merge(*words: str, method: str = "task_arithmetic", out: str = "out") -> int:
    models = ["--base", "base", "--models", "a=a", "b=b"]
    return cli.main(["merge", "--method", method, *models, "--out", out, *words])


def options(method: str, *words: str) -> dict[str, Any]:
    values = parse(MERGE, ["--method", method, "--models", "a=a", "b=b", "--out", "o", *words])
    found: dict[str, Any] = values["options"]
    methods.check_call(method, found, {}, tasks=["a", "b"], has_base=True)
    return found


# --- options as words ---


@pytest.mark.parametrize(
    ("words", "value"),
    [
        (["0.5"], 0.5),
        (["-1"], -1.0),
        (["a=0.3", "b=1"], {"a": 0.3, "b": 1.0}),
        (['{"a": 1, "b": 2}'], {"a": 1.0, "b": 2.0}),
        (["[0, 0.5, 1]"], [0.0, 0.5, 1.0]),
        (["a=[0, 1]", "b=1"], {"a": [0.0, 1.0], "b": 1.0}),
        (
            ['[{"filter": "*.mlp.*", "value": 1}, {"value": [0, 1]}]'],
            [{"filter": "*.mlp.*", "value": 1.0}, {"value": [0.0, 1.0]}],
        ),
    ],
)
def test_numbers_by_task_layer_and_name(words: list[str], value: Any) -> None:
    assert options("task_arithmetic", "--scaling-factor", *words) == {"scaling_factor": value}


def test_lists_of_words() -> None:
    assert options("soup", "--members", "a", "b") == {"members": ["a", "b"]}
    assert options("soup", "--members", '["a"]') == {"members": ["a"]}
    assert options("soup", "--members", "none") == {"members": None}


def test_a_gradient_of_what_takes_one_number() -> None:
    assert options("breadcrumbs", "--gamma", "[0, 0.02]") == {"gamma": [0.0, 0.02]}


def test_options_reach_the_merge(folders: Path, tensors: dict[str, dict[str, Tensor]]) -> None:
    assert merge("--scaling-factor", "a=0.25", 'b=[{"filter": "layer.*", "value": 0.5}, {"value": 2}]') == 0
    expected = merge_tensors(
        method="task_arithmetic",
        options={"scaling_factor": {"a": 0.25, "b": [{"filter": "layer.*", "value": 0.5}, {"value": 2.0}]}},
        base=tensors["base"],
        models={task: tensors[task] for task in "ab"},
        extras={},
    )
    found = load_file(folders / "out/model.safetensors")
    assert all(found[name].equal(its) for name, its in expected.items())


def test_settings_of_output_and_compute(folders: Path) -> None:
    assert merge("--dtype", "float16", "--max-shard-size", "60B", "--num-threads", "1") == 0
    found = open_checkpoint(folders / "out", label="out")
    assert {info.dtype for info in found.tensors.values()} == {"F16"}
    assert len(list((folders / "out").glob("*.safetensors"))) > 1
    file = {
        "output": {"dtype": "bfloat16"},
        "compute": {"num_threads": 1},
        "options": {"scaling_factor": 0.5},
    }
    Path("file.json").write_text(json.dumps(file))
    assert merge("--config", "file.json", out="other") == 0
    assert json.loads(Path("other/merge.json").read_text())["output"]["dtype"] == "bfloat16"


def test_initial_is_a_model_that_mats_starts_from(folders: Path) -> None:
    words = ["--objective", "average", "--initialization", "initial", "--initial", "base"]
    assert merge(*words, method="mats") == 0
    assert "initial" in json.loads(Path("out/merge.json").read_text())["sources"]


def test_what_it_will_take_is_said_first(folders: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert merge() == 0
    captured = capsys.readouterr()
    assert captured.err.startswith("estimate: up to ")
    assert captured.err.count("\n") == 1
    assert captured.out == "wrote out\n"


# --- adapters ---


def write_adapter(folder: Path, seed: int, rank: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    prefix = "base_model.model.layer"
    folder.mkdir()
    save_file(
        {
            f"{prefix}.lora_A.weight": torch.randn(rank, 4, generator=generator),
            f"{prefix}.lora_B.weight": torch.randn(5, rank, generator=generator),
        },
        folder / "adapter_model.safetensors",
    )
    config = {"peft_type": "LORA", "r": rank, "lora_alpha": rank, "target_modules": ["layer"]}
    (folder / "adapter_config.json").write_text(json.dumps(config))


def test_adapters_to_an_adapter(folders: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for seed, name in enumerate(("one", "two")):
        write_adapter(folders / name, seed, rank=seed + 1)
    words = ["merge", "--method", "average", "--models", "a=one", "b=two"]
    assert cli.main([*words, "--result", "svd", "--rank", "1", "--out", "small"]) == 0
    out = capsys.readouterr().out
    assert "lost by the rank: " in out
    assert out.endswith("wrote small\n")
    assert json.loads(Path("small/adapter_config.json").read_text())["r"] == 1
    card = Path("small/README.md").read_text()
    assert 'library_name: "peft"' in card
    recipe = card.split("```json\n")[1].split("```")[0]
    for place, name in (("path/to/a", "one"), ("path/to/b", "two"), ("merged", "again")):
        recipe = recipe.replace(f'"{place}"', f'"{name}"')
    Path("recipe.json").write_text(recipe)
    assert cli.main(["merge", "--config", "recipe.json"]) == 0
    name = "adapter_model.safetensors"
    assert Path("again", name).read_bytes() == Path("small", name).read_bytes()
    assert cli.main([*words, "--result", "concat", "--out", "exact"]) == 0
    assert json.loads(Path("exact/adapter_config.json").read_text())["r"] == 3
    assert cli.main([*words, "--base", "base", "--out", "whole"]) == 0
    assert (folders / "whole/model.safetensors").is_file()


# --- the Hub ---


def test_models_by_hub_id(folders: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = folders / f"models--you--food/snapshots/{COMMIT}"
    place.parent.mkdir(parents=True)
    (folders / "a").rename(place)
    asked = []

    def fetch(name: str, revision: str | None) -> tuple[Path, str]:
        asked.append((name, revision))
        return place, COMMIT

    monkeypatch.setattr(hub, "model_folder", fetch)
    words = ["--base", "base", "--models", "a=you/food@v1", "b=b", "--out", "out"]
    assert cli.main(["merge", "--method", "task_arithmetic", *words]) == 0
    assert asked == [("you/food", "v1")]
    text = Path("out/README.md").read_text()
    assert yaml.safe_load(text.split("---\n")[1])["base_model"] == ["you/food"]
    assert f'"a": "you/food@{COMMIT}"' in text
    assert json.loads(Path("out/merge.json").read_text())["sources"]["models['a']"]["hub"] == "you/food"


def test_nothing_is_fetched_for_a_mistake(folders: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub, "model_folder", lambda *args: pytest.fail("fetched"))
    words = ["--base", "base", "--models", "a=you/food", "--out", "out"]
    for mistake in (["--dtype", "int8"], ["--policy", '{"head": "kepe"}'], ["--scaling-factor", "b=1"]):
        assert cli.main(["merge", "--method", "task_arithmetic", *words, *mistake]) == 2


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("you/food", True),
        ("you/food-2.1@refs/pr/1", True),
        ("./you/food", False),
        ("/you/food", False),
        ("../you", False),
        ("food", False),
        ("out/of/here", False),
        ("a/food", False),  # there is a folder a
    ],
)
def test_what_is_a_hub_id(folders: Path, name: str, expected: bool) -> None:
    assert hub.is_id(name) == expected


class FakeHub:
    """The calls that an upload makes."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *, error: Exception | None = None) -> None:
        self.calls: list[Any] = []
        self._error = error
        for name in ("whoami", "create_repo", "upload_folder"):
            monkeypatch.setattr(huggingface_hub.HfApi, name, self._answer(name))

    def _answer(self, name: str) -> Callable[..., Any]:
        def call(api: Any, *args: Any, **options: Any) -> Any:
            self.calls.append((name, *args, options))
            if name == "upload_folder" and self._error is not None:
                raise self._error
            return SimpleNamespace(commit_url="https://hub/commit/1")

        return call

    @property
    def names(self) -> list[str]:
        return [call[0] for call in self.calls]


def test_push_after_a_merge(
    folders: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    fake = FakeHub(monkeypatch)
    assert merge("--push-to-hub", "you/merged", "--private") == 0
    assert fake.names == ["whoami", "create_repo", "upload_folder"]
    assert fake.calls[1][1:] == ("you/merged", {"private": True, "exist_ok": True})
    assert fake.calls[2][1]["folder_path"] == "out"
    assert capsys.readouterr().out == "wrote out\nuploaded to https://hub/commit/1\n"


def test_a_failed_upload_loses_nothing(
    folders: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    FakeHub(monkeypatch, error=OSError("connection lost"))
    assert merge("--push-to-hub", "you/merged") == 2
    captured = capsys.readouterr()
    assert "out is complete, but could not be uploaded to 'you/merged'" in captured.err
    assert "connection lost" in captured.err
    (command,) = [its for its in captured.err.split("`") if its.startswith("merging push")]
    assert (folders / "out/model.safetensors").is_file()
    fake = FakeHub(monkeypatch)
    assert cli.main(command.split()[1:]) == 0
    assert fake.calls[-1][1]["repo_id"] == "you/merged"


def test_a_mergekit_file_can_be_pushed_and_checked() -> None:
    command = from_mergekit("file.yml")
    words = ["--out", "o", "--push-to-hub", "you/x", "--verify", "--dtype", "float16"]
    found = parse(command, words)
    assert (found["push_to_hub"], found["verify"], found["private"]) == ("you/x", True, False)
    assert found["output"] == {"dtype": "float16"}


def test_nothing_bad_is_pushed(
    folders: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """``--verify`` finds that the toy model lacks most parameters of its architecture."""
    fake = FakeHub(monkeypatch)
    assert merge("--verify", "--push-to-hub", "you/merged") == 2
    assert "out is no sound model" in capsys.readouterr().err
    assert fake.names == ["whoami"]
    assert "**problem**" in Path("out/README.md").read_text()


def test_pickled_weights_are_fetched_where_there_are_no_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def download(name: str, *, revision: str, allow_patterns: list[str]) -> str:
        asked.append(allow_patterns)
        return str(tmp_path)

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    monkeypatch.setattr(hub, "resolve", lambda *args, **options: COMMIT)
    hub.model_folder("you/old", None)
    assert [any(pattern.endswith(".bin") for pattern in its) for its in asked] == [False, True]
    (tmp_path / "model.safetensors").touch()
    hub.model_folder("you/new", None)
    assert len(asked) == 3
    (tmp_path / "model.safetensors").unlink()
    hub.model_folder("you/old", None, pickled=False)
    assert len(asked) == 4
