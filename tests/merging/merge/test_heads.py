import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from merging.errors import CheckpointError
from merging.merge import heads
from merging.merge.streaming import merge_checkpoints
from safetensors.torch import load_file
from torch import Tensor

WriteModel = Callable[..., Path]


def model(seed: int, num_labels: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {
        "body.weight": torch.randn(3, 4, generator=generator),
        "classifier.weight": torch.randn(num_labels, 4, generator=generator),
        "classifier.bias": torch.randn(num_labels, generator=generator),
    }


def labels(*names: str) -> dict[str, Any]:
    return {"id2label": dict(enumerate(names))}


@pytest.fixture
def call(write_model: WriteModel, tmp_path: Path) -> dict[str, Any]:
    """Two tasks whose heads have 2 and 3 rows."""
    return {
        "method": "task_arithmetic",
        "options": {},
        "base": write_model("base", model(0, 2), config=labels("no", "yes")),
        "models": {
            "a": write_model("a", model(1, 2), config=labels("bad", "good")),
            "b": write_model("b", model(2, 3), config=labels("x", "y", "z")),
        },
        "extras": {},
        "out": tmp_path / "out",
    }


def test_by_default_different_heads_are_refused(call: dict[str, Any]) -> None:
    with pytest.raises(CheckpointError, match=r'classifier.*"head": "keep".*"head": "per_task"'):
        merge_checkpoints(**call)
    call["models"].pop("b")
    with pytest.raises(CheckpointError, match="label sets differ"):
        merge_checkpoints(**call)


def test_merge_whatever_the_labels_are_called(call: dict[str, Any]) -> None:
    call["models"].pop("b")
    merge_checkpoints(**call, policy={"head": "merge"})
    merged = load_file(call["out"] / "model.safetensors")
    assert torch.allclose(merged["classifier.weight"], model(1, 2)["classifier.weight"])


def test_keep_is_the_base_bit_for_bit(call: dict[str, Any]) -> None:
    merge_checkpoints(**call, policy={"head": "keep"})
    merged = load_file(call["out"] / "model.safetensors")
    assert torch.equal(merged["classifier.weight"], model(0, 2)["classifier.weight"])
    assert not torch.equal(merged["body.weight"], model(0, 2)["body.weight"])
    assert not (call["out"] / "heads").exists()


def test_per_task(call: dict[str, Any]) -> None:
    merge_checkpoints(**call, policy={"head": "per_task"})
    assert json.loads((call["out"] / "merge.json").read_text())["policy"]["head"] == "per_task"
    body = load_file(call["out"] / "model.safetensors")
    for task, expected in (("a", model(1, 2)), ("b", model(2, 3))):
        folder = heads.folder_of(call["out"], task)
        assert json.loads((Path(folder) / "config.json").read_text())["id2label"]
        whole = heads.with_head(body, folder)
        assert torch.equal(whole["classifier.weight"], expected["classifier.weight"])
        assert torch.equal(whole["body.weight"], body["body.weight"])
    assert heads.folder_of(call["out"], "unknown") == str(call["out"])


def test_a_base_without_a_head(call: dict[str, Any], write_model: WriteModel) -> None:
    """A pretrained language model: there is nothing to keep but the heads of the tasks."""
    call["base"] = write_model("bare", {"body.weight": model(0, 2)["body.weight"]})
    merge_checkpoints(**call, policy={"head": "per_task"})
    assert list(load_file(call["out"] / "model.safetensors")) == ["body.weight"]
    assert heads.folder_of(call["out"], "a") != str(call["out"])


def test_models_without_a_head(call: dict[str, Any], write_model: WriteModel) -> None:
    bare = {"body.weight": torch.ones(3, 4)}
    call |= {"base": write_model("bare", bare), "models": {"a": write_model("bare_a", bare)}}
    with pytest.raises(CheckpointError, match="has no head"):
        merge_checkpoints(**call, policy={"head": "per_task"})
    assert not call["out"].exists()
