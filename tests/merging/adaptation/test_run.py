"""AdaMerging from folders to a folder: what it writes is what an ordinary merge gives."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from merging import progress, tasks
from merging.adaptation.entropy import mean_entropy
from merging.adaptation.run import adapt
from merging.data import encoded
from merging.errors import OptionError
from merging.merge import heads
from merging.merge.streaming import merge_checkpoints
from safetensors.torch import load_file

OPTIONS = {"num_steps": 6, "batch_size": 5, "learning_rate": 0.05, "max_tokens": 16}
Adapt = Callable[..., tuple[Path, dict[str, Any]]]


@pytest.fixture
def run(call: dict[str, Any], folders: Mapping[str, Path], tmp_path: Path) -> Adapt:
    """``run(name, **options)`` gives the folder and its record."""

    def run(name: str = "out", **options: Any) -> tuple[Path, dict[str, Any]]:
        changed = {key: options.pop(key) for key in ("data", "seed", "policy") if key in options}
        out = tmp_path / name
        adapt(**{**call, **changed}, base=folders["base"], options={**OPTIONS, **options}, out=out)
        return out, json.loads((out / "adaptation.json").read_text())

    return run


@pytest.mark.parametrize(
    "options",
    [{}, {"granularity": "task"}, {"plus": True, "density": 0.5}],
    ids=["by tensor", "by task", "plus"],
)
def test_the_record_makes_the_same_model_by_an_ordinary_merge(
    run: Adapt, call: dict[str, Any], folders: Mapping[str, Path], tmp_path: Path, options: dict[str, Any]
) -> None:
    out, record = run(**options)
    merge_checkpoints(
        method=record["method"],
        options=record["options"],
        base=folders["base"],
        models=call["models"],
        extras={},
        policy={"head": "per_task"},
        out=tmp_path / "merged",
    )
    ours, theirs = (load_file(folder / "model.safetensors") for folder in (out, tmp_path / "merged"))
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert (out / "heads" / "many" / "config.json").is_file()


def test_entropy_falls_and_coefficients_differ_by_tensor(run: Adapt) -> None:
    _, record = run(num_steps=30, learning_rate=0.1, clamp=None)
    first, last = (sum(record["curve"][place]["entropies"].values()) for place in (0, -1))
    assert last < 0.95 * first
    *entries, rest = record["options"]["scaling_factor"]
    assert len({entry["value"]["few"] for entry in entries}) > 5
    assert not any("classifier" in entry["filter"] for entry in entries)
    assert rest == {"value": {"few": 0.3, "many": 0.3}}


def test_the_curve_begins_with_the_entropy_of_task_arithmetic(
    run: Adapt, call: dict[str, Any], folders: Mapping[str, Path], tmp_path: Path
) -> None:
    """One batch of everything: what the curve says is what the written model gives with its heads."""
    _, record = run(num_steps=1, batch_size=20, batches_per_step=1)
    merge_checkpoints(
        method="task_arithmetic",
        options={"scaling_factor": 0.3},
        base=folders["base"],
        models=call["models"],
        extras={},
        policy={"head": "per_task"},
        out=tmp_path / "merged",
    )
    task = tasks.load(call["task_type"])
    body, head = load_file(tmp_path / "merged" / "model.safetensors"), tmp_path / "merged" / "heads" / "many"
    network = task.load_model(str(head), tensors=heads.with_head(body, head))
    processor = task.load_processor(model=str(tmp_path / "merged"))
    rows = encoded.load(
        call["data"]["many"],
        task_type=call["task_type"],
        processor=processor,
        max_tokens=16,
        labelled=False,
    )
    batch = task.collate(list(rows), processor)
    batch.pop("labels")
    with torch.no_grad():
        entropy = float(mean_entropy(task.scores(network, batch)))
    assert record["curve"][0]["entropies"]["many"] == pytest.approx(entropy, rel=1e-4)


def test_progress_can_be_read(call: dict[str, Any], folders: Mapping[str, Path], tmp_path: Path) -> None:
    file = tmp_path / "progress.jsonl"
    adapt(**call, base=folders["base"], options=OPTIONS, out=tmp_path / "out", progress=file)
    entry = progress.last(file)
    assert progress.fraction(entry) == 1.0
    assert "step 6/6, loss" in str(progress.describe(entry))


def test_the_seed_decides(run: Adapt) -> None:
    _, one = run("one")
    _, same = run("same")
    _, other = run("other", seed=4)
    assert one["curve"] == same["curve"]
    assert one["curve"] != other["curve"]


def test_test_inputs_are_refused_unless_asked_for(run: Adapt, call: dict[str, Any], reviews: Path) -> None:
    data = {**call["data"], "few": [{"data": reviews, "split": "train+test"}]}
    with pytest.raises(OptionError, match=r"data\['few'\] is of the split 'train\+test'.*allow_test_split"):
        run(data=data)
    run(data=data, num_steps=1, allow_test_split=True)


def test_every_task_needs_data(run: Adapt, call: dict[str, Any]) -> None:
    with pytest.raises(OptionError, match=r"data names the tasks \['few'\], but the models are"):
        run(data={"few": call["data"]["few"]})


def test_an_input_is_never_replaced(call: dict[str, Any], folders: Mapping[str, Path]) -> None:
    with pytest.raises(OptionError, match="out is the folder of"):
        adapt(**call, base=folders["base"], options=OPTIONS, out=folders["few"])


def test_a_shared_head_is_merged_where_the_policy_says_so(
    run: Adapt, call: dict[str, Any], folders: Mapping[str, Path], tmp_path: Path
) -> None:
    models = {"few": folders["few"], "same": folders["base"]}
    data = dict.fromkeys(models, call["data"]["few"])
    arguments = {**call, "models": models, "data": data}
    out = tmp_path / "out"
    adapt(**arguments, base=folders["base"], options=OPTIONS, policy={"head": "merge"}, out=out)
    record = json.loads((out / "adaptation.json").read_text())
    assert any("classifier" in entry.get("filter", "") for entry in record["options"]["scaling_factor"])
    assert not (out / "heads").exists()


def test_a_collapse_stops_it_and_takes_it_back(run: Adapt) -> None:
    """Any fall of the entropy of the classes counts as one here; the first window is never one."""
    options = {"num_steps": 40, "learning_rate": 0.2, "clamp": None, "monitor_steps": 2}
    _, free = run("free", **options, collapse=0.0)
    assert free["stopped"] is None and len(free["curve"]) == 40
    _, record = run("stopped", **options, collapse=0.97)
    stopped = record["stopped"]
    assert stopped["reason"] == "collapse" and stopped["step"] % 2 == 1
    assert len(record["curve"]) == stopped["step"] + 1 < 40
    kept, _ = run("kept", **{**options, "num_steps": stopped["step"] - 1}, collapse=0.0)
    assert record["options"] == json.loads((kept / "adaptation.json").read_text())["options"]
