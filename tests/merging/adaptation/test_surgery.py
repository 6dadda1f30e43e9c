"""Corrections of features: what they do, how they are stored, and that an evaluation uses them."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from merging.adaptation.options import SurgeryOptions
from merging.adaptation.run_surgery import operate
from merging.adaptation.surgery import (
    Surgery,
    SurgeryTraining,
    attached,
    features_of,
    head_module,
    load,
    save,
)
from merging.errors import CheckpointError, DivergenceError, OptionError
from merging.evaluation.run import evaluate
from merging.merge.streaming import merge_checkpoints
from torch import nn

OPTIONS = SurgeryOptions(rank=2, learning_rate=0.05)


def test_it_starts_as_the_identity_and_its_start_depends_on_seed_and_task() -> None:
    module = Surgery.start(5, 2, seed=0, task="a")
    features = torch.randn(4, 5, generator=torch.Generator().manual_seed(0))
    assert torch.equal(module(features), features)
    assert module.down.abs().max() <= 5**-0.5
    assert torch.equal(module.down, Surgery.start(5, 2, seed=0, task="a").down)
    assert not torch.equal(module.down, Surgery.start(5, 2, seed=0, task="b").down)
    assert not torch.equal(module.down, Surgery.start(5, 2, seed=1, task="a").down)


def test_the_formula() -> None:
    down, up = torch.tensor([[1.0, -1, 0], [0, 2, 1]]), torch.tensor([[1.0, 0], [0, 1], [2, 2]])
    features = torch.tensor([1.0, 3, -1])  # D f = (-2, 5), relu: (0, 5), U ...: (0, 5, 10)
    assert Surgery(down, up)(features).tolist() == [1, -2, -11]


def test_a_batch_changes_its_own_task_only_and_masked_positions_do_not_count() -> None:
    modules = {task: Surgery.start(3, 2, seed=0, task=task) for task in ("a", "b")}
    before = modules["b"].up.clone()
    training = SurgeryTraining(modules, OPTIONS)
    merged = torch.randn(2, 2, 3, generator=torch.Generator().manual_seed(0))
    wanted = torch.zeros(2, 2, 3)
    wanted[:, 1] = 1e6
    mask = torch.tensor([[1, 0], [1, 0]])
    distance_before = float(merged[:, 0].abs().mean())
    assert training.step("a", merged, wanted, mask) == pytest.approx(distance_before)
    assert torch.equal(modules["b"].up, before) and modules["a"].up.any()
    with pytest.raises(DivergenceError, match="the distance of task 'a' is nan"):
        training.step("a", merged * torch.nan, wanted)


def test_files(tmp_path: Path) -> None:
    modules = {task: Surgery.start(3, 2, seed=0, task=task) for task in ("b", "a")}
    assert load(tmp_path) == {}
    save(tmp_path, modules, {"seed": 0})
    again = load(tmp_path)
    assert list(again) == ["a", "b"] and torch.equal(again["b"].down, modules["b"].down)
    (tmp_path / "surgery.json").write_text(json.dumps({"tasks": ["a"]}))
    with pytest.raises(CheckpointError, match="its record says"):
        load(tmp_path)


def test_what_the_head_reads_is_seen_and_corrected() -> None:
    network = nn.Sequential()
    network.add_module("body", nn.Linear(4, 3))
    network.add_module("classifier", nn.Linear(3, 2))
    x = torch.ones(1, 4)
    plain, module = network(x), Surgery(torch.ones(1, 3), torch.ones(3, 1))
    with attached(network, module), features_of(network) as found:
        corrected = network(x)
    torch.testing.assert_close(network.classifier(module(network.body(x))), corrected)
    assert len(found) == 1 and torch.equal(network(x), plain)
    with pytest.raises(CheckpointError, match="Linear has no head"):
        head_module(network.body)


def test_a_rank_is_positive() -> None:
    with pytest.raises(OptionError, match="surgery: rank must be 1 or more, got 0"):
        SurgeryOptions(rank=0)


def test_features_come_nearer_and_an_evaluation_uses_them(
    call: dict[str, Any], folders: Mapping[str, Path], reviews: Path, tmp_path: Path
) -> None:
    merged, out = tmp_path / "merged", tmp_path / "out"
    merge_checkpoints(
        method="task_arithmetic",
        options={"scaling_factor": 0.3},
        base=folders["base"],
        models=call["models"],
        extras={},
        policy={"head": "per_task"},
        out=merged,
    )
    options = {"num_steps": 60, "learning_rate": 0.01, "batch_size": 8, "max_tokens": 16}
    operate(**call, model=merged, options=options, out=out)
    curve = json.loads((out / "surgery.json").read_text())["curve"]
    assert all(curve[task][-1] < 0.8 * curve[task][0] for task in ("few", "many"))

    def entropy_of(model: Path, name: str) -> list[Any]:
        evaluate(
            task_type=call["task_type"],
            model=model,
            data={"few": {"data": reviews, "split": "test"}},
            options={"bootstrap_samples": 2, "max_tokens": 16},
            out=tmp_path / name,
        )
        lines = (tmp_path / name / "predictions" / "few.jsonl").read_text().splitlines()
        return [json.loads(line) for line in lines]

    plain, corrected, own = (
        entropy_of(model, f"evaluation_{number}")
        for number, model in enumerate((merged, out, folders["few"]))
    )
    assert plain != corrected
    assert distance(corrected, own) < distance(plain, own)


def distance(one: list[Any], other: list[Any]) -> float:
    """Mean difference of predicted probabilities."""
    pairs = list(zip(one, other, strict=True))
    return sum(
        abs(p - q) for a, b in pairs for p, q in zip(a["probabilities"], b["probabilities"], strict=True)
    ) / len(pairs)
