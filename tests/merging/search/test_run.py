"""Searches over real merges of tiny classifiers, evaluated for real."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from merging import models
from merging.commands import cli
from merging.errors import DataError
from merging.evaluation.run import evaluate
from merging.merge.streaming import merge_checkpoints
from merging.search import run as search_module
from merging.search.points import evaluate_merge
from merging.search.run import search
from safetensors.torch import load_file, save_file

TASK = "sequence_classification"
EVALUATION = {"batch_size": 8, "max_tokens": 16, "bootstrap_samples": 5}


@pytest.fixture(scope="module")
def folders(tiny_language_model: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A base with random weights, and two models that differ from it at random."""
    from merging import tasks

    task = tasks.load(TASK)
    model = task.build_model(
        model=str(tiny_language_model), architecture=None, label_names=["0", "1"], dropout=None, seed=0
    )
    made = {}
    for seed, name in enumerate(("base", "a", "b")):
        folder = tmp_path_factory.mktemp("models") / name
        with models.quiet():
            model.save_pretrained(folder)
            task.load_processor(model=str(tiny_language_model)).save_pretrained(folder)
        if name != "base":
            generator = torch.Generator().manual_seed(seed)
            tensors = load_file(folder / "model.safetensors")
            for key, tensor in tensors.items():
                tensor += 0.3 * torch.randn(tensor.shape, generator=generator)
                tensors[key] = tensor
            save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
        made[name] = folder
    return made


@pytest.fixture
def merge(folders: dict[str, Path]) -> dict[str, Any]:
    return {
        "method": "task_arithmetic",
        "options": {},
        "base": folders["base"],
        "models": {task: folders[task] for task in ("a", "b")},
        "extras": {},
    }


@pytest.fixture
def data(reviews: Path) -> dict[str, Any]:
    return {"a": {"data": reviews, "split": "train"}, "b": {"data": reviews, "split": "test"}}


@pytest.fixture
def call(merge: dict[str, Any], data: dict[str, Any], tmp_path: Path) -> dict[str, Any]:
    return {
        "merge": merge,
        "space": {"scaling_factor": {"low": 0.0, "high": 1.0, "step": 0.5}},
        "task_type": TASK,
        "data": data,
        "evaluation": EVALUATION,
        "options": {"strategy": "grid"},
        "out": tmp_path / "out",
        "work": tmp_path / "work",
    }


def record(call: dict[str, Any]) -> dict[str, Any]:
    search(**call)
    found: dict[str, Any] = json.loads((call["out"] / "search.json").read_text())
    return found


def metrics_of(model: Path, data: dict[str, Any], out: Path) -> dict[str, Any]:
    evaluate(task_type=TASK, model=model, data=data, options=EVALUATION, out=out)
    found: dict[str, Any] = json.loads((out / "metrics.json").read_text())
    return found


def test_in_memory_is_what_a_written_model_gives(
    merge: dict[str, Any], data: dict[str, Any], tmp_path: Path
) -> None:
    evaluate_merge(merge=merge, task_type=TASK, data=data, options=EVALUATION, out=tmp_path / "point")
    merge_checkpoints(**merge, out=tmp_path / "merged")
    written = metrics_of(tmp_path / "merged", data, tmp_path / "evaluation")
    assert json.loads((tmp_path / "point" / "metrics.json").read_text()) == written
    kept = sorted(path.name for path in (tmp_path / "point").iterdir())
    assert kept == ["merge.json", "metrics.json", "predictions"]
    for task in data:
        file = f"predictions/{task}.jsonl"
        assert (tmp_path / "point" / file).read_text() == (tmp_path / "evaluation" / file).read_text()


def test_a_grid_evaluates_every_point(call: dict[str, Any], data: dict[str, Any], tmp_path: Path) -> None:
    found = record(call)
    assert [trial["options"]["scaling_factor"] for trial in found["trials"]] == [0.0, 0.5, 1.0]
    assert found["num_evaluations"] == 3
    assert found["best"]["score"] == max(trial["score"] for trial in found["trials"])
    base = metrics_of(call["merge"]["base"], data, tmp_path / "base")
    mean = sum(base[task]["accuracy"]["value"] for task in data) / 2
    assert found["trials"][0]["score"] == pytest.approx(mean)


@pytest.mark.parametrize("strategy", ["random", "bayesian"])
def test_an_interrupted_search_goes_on_with_the_same_trials(
    call: dict[str, Any], strategy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    call["options"] = {"strategy": strategy, "num_trials": 4, "seed": 3}
    call["space"] = {"scaling_factor": {"low": 0.0, "high": 1.0, "per_task": True}}
    expected = record(call)
    assert len({json.dumps(trial["options"]) for trial in expected["trials"]}) == 4
    trials = call["work"] / "trials.jsonl"
    trials.write_text("".join(line + "\n" for line in trials.read_text().splitlines()[:2]))
    merges = []
    open_merge: Callable[..., Any] = search_module.open_merge
    monkeypatch.setattr(
        search_module, "open_merge", lambda **given: merges.append(given) or open_merge(**given)
    )
    assert record(call) == expected
    assert len(merges) == 2, "two of the four were known"


def test_another_seed_gives_other_trials(call: dict[str, Any], tmp_path: Path) -> None:
    found = []
    for seed in (0, 1):
        call["options"] = {"strategy": "random", "num_trials": 2, "seed": seed}
        call["space"] = {"scaling_factor": {"low": 0.0, "high": 1.0}}
        call["work"] = tmp_path / f"work{seed}"
        found.append(record(call)["trials"])
    assert found[0][0]["options"] != found[1][0]["options"]


def test_greedy_soup_and_the_best_model(call: dict[str, Any], data: dict[str, Any], tmp_path: Path) -> None:
    call["merge"] |= {"method": "soup", "base": None}
    call |= {"space": {}, "options": {"strategy": "greedy_soup"}, "keep_model": True}
    found = record(call)
    assert found["num_evaluations"] == 3
    best = metrics_of(call["out"] / "model", data, tmp_path / "evaluation")
    mean = sum(best[task]["accuracy"]["value"] for task in data) / 2
    assert found["best"]["score"] == pytest.approx(mean)


def test_metric_that_was_not_evaluated(call: dict[str, Any]) -> None:
    call["options"] = {"strategy": "grid", "metric": "matthews_correlation"}
    with pytest.raises(DataError, match="no metric 'matthews_correlation'"):
        search(**call)
    assert not call["out"].exists()


def test_from_the_command_line(
    merge: dict[str, Any], reviews: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    inputs = ["--base", str(merge["base"]), "--models", *(f"{t}={its}" for t, its in merge["models"].items())]
    data = ["--data", f"a={reviews}:train", f"b={reviews}:test", "--max-tokens", "16", "--task-type", TASK]
    space = ["--space", '{"scaling_factor": [0.0, 0.5]}', "--strategy", "grid", "--keep-model"]
    out = tmp_path / "found"
    words = ["search", "--method", "task_arithmetic", *inputs, *data, *space, "--out", str(out)]
    assert cli.main(words) == 0
    text = capsys.readouterr().out
    best = json.loads((out / "search.json").read_text())["best"]
    assert f"accuracy {100 * best['score']:.1f} with {json.dumps(best['options'])}, the best of 2" in text
    assert (out / "model/README.md").is_file()
    assert [path.name for path in tmp_path.iterdir()] == ["found"]  # unfinished work is gone
