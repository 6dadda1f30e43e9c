"""Adapters where models are expected: merge_checkpoints on the effective weights."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from merging.errors import CheckpointError
from merging.files.checkpoints import open_checkpoint
from merging.merge.streaming import merge_checkpoints, merge_tensors

CONFIGS = {
    "a": {"target_modules": ["query", "dense"], "r": 3, "task_type": "SEQ_CLS"},
    "b": {"target_modules": ["query"], "r": 2, "use_rslora": True, "task_type": "SEQ_CLS"},
}


@pytest.fixture
def base_folder(bases: Any, tmp_path: Path) -> Path:
    from merging.models import quiet

    with quiet():
        bases["bert"].save_pretrained(tmp_path / "base")
    return tmp_path / "base"


@pytest.mark.parametrize("method", ["task_arithmetic", "average"])
def test_is_the_merge_of_what_peft_makes_dense(
    method: str, base_folder: Path, make_adapter: Any, bases: Any, tmp_path: Path
) -> None:
    made = {task: make_adapter("bert", task, seed, CONFIGS[task]) for seed, task in enumerate(CONFIGS)}
    merge_checkpoints(
        method=method,
        options={},
        base=base_folder,
        models={task: its.folder for task, its in made.items()},
        extras={},
        out=tmp_path / "out",
    )
    expected = merge_tensors(
        method=method,
        options={},
        base=bases["bert"].state_dict(),
        models={task: its.effective for task, its in made.items()},
        extras={},
    )
    merged = open_checkpoint(tmp_path / "out", label="out")
    assert {name for name in merged.tensors} >= {"classifier.weight", "bert.pooler.dense.weight"}
    for name in merged.tensors:
        torch.testing.assert_close(merged.read(name), expected[name], rtol=1e-5, atol=1e-6, msg=name)
    sources = json.loads((tmp_path / "out" / "merge.json").read_text())["sources"]
    assert len({its["weights_hash"] for its in sources.values()}) == 3


def test_an_adapter_needs_its_base(make_adapter: Any, tmp_path: Path) -> None:
    folder = make_adapter("bert", "a", 0, CONFIGS["a"]).folder
    with pytest.raises(CheckpointError, match="is an adapter, and no base is given"):
        merge_checkpoints(
            method="average", options={}, base=None, models={"a": folder}, extras={}, out=tmp_path / "out"
        )


def test_pickled_models_and_adapters_together(
    base_folder: Path, make_adapter: Any, bases: Any, tmp_path: Path
) -> None:
    """A base in PyTorch's own format, one adapter of it, one whole model in that format."""
    from safetensors.torch import load_file

    made = make_adapter("bert", "a", 0, {"target_modules": ["query"], "r": 2})
    whole = tmp_path / "whole"
    whole.mkdir()
    (whole / "config.json").write_text((base_folder / "config.json").read_text())
    torch.save(
        {name: its + 1 for name, its in bases["bert"].state_dict().items()}, whole / "pytorch_model.bin"
    )
    torch.save(load_file(base_folder / "model.safetensors"), base_folder / "pytorch_model.bin")
    (base_folder / "model.safetensors").unlink()
    merge_checkpoints(
        method="average",
        options={},
        base=base_folder,
        models={"a": made.folder, "b": whole},
        extras={},
        out=tmp_path / "out",
    )
    merged = open_checkpoint(tmp_path / "out", label="out")
    for name in merged.tensors:
        expected = (made.effective[name] + bases["bert"].state_dict()[name] + 1) / 2
        torch.testing.assert_close(merged.read(name), expected, rtol=1e-5, atol=1e-6, msg=name)


def test_an_adapter_of_another_base_is_noted(base_folder: Path, make_adapter: Any, tmp_path: Path) -> None:
    folder = make_adapter("bert", "a", 0, {"target_modules": ["query"], "r": 2}).folder
    config = folder / "adapter_config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"base_model_name_or_path": "org/other"}))
    merge_checkpoints(
        method="average", options={}, base=base_folder, models={"a": folder}, extras={}, out=tmp_path / "out"
    )
    sources = json.loads((tmp_path / "out" / "merge.json").read_text())["sources"]
    assert "trained on 'org/other'" in sources["models['a']"]["notes"][0]
    assert "notes" not in sources["base"]
