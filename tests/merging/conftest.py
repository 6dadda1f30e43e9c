"""Model and Hessian folders made of a few tensors, without transformers."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from merging.checkpoints import TensorInfo, dtype_name, weights_hash, write_checkpoint
from merging.hessians.artifact import HessianRecord, write_hessian
from torch import Tensor

WriteModel = Callable[..., Path]
WriteHessian = Callable[..., Path]


@pytest.fixture
def write_model(tmp_path: Path) -> WriteModel:
    """``write_model(name, tensors, config={}, max_shard_bytes=...)`` makes a model folder."""

    def write(
        name: str,
        tensors: Mapping[str, Tensor],
        *,
        config: Mapping[str, Any] | None = None,
        max_shard_bytes: int = 10**9,
    ) -> Path:
        folder = tmp_path / name
        folder.mkdir()
        (folder / "config.json").write_text(json.dumps({"model_type": "toy", **(config or {})}))
        infos = {key: TensorInfo(dtype_name(its.dtype), tuple(its.shape)) for key, its in tensors.items()}
        write_checkpoint(folder, infos, tensors.__getitem__, max_shard_bytes=max_shard_bytes)
        return folder

    return write


@pytest.fixture
def write_hessian_of(tmp_path: Path) -> WriteHessian:
    """``write_hessian_of(model, tensors, num_train_examples=...)`` makes a Hessian folder."""

    def write(model: Path, tensors: Mapping[str, Tensor], *, num_train_examples: int = 10) -> Path:
        folder = tmp_path / f"hessian_of_{model.name}"
        folder.mkdir()
        record = HessianRecord(
            estimator="fisher_exact",
            task_type="sequence_classification",
            num_examples=5,
            num_train_examples=num_train_examples,
            model_hash=weights_hash(model),
            model=str(model),
            data=None,
            seed=0,
        )
        write_hessian(folder, tensors, record)
        return folder

    return write


@pytest.fixture
def random_tensors() -> Callable[..., dict[str, Tensor]]:
    """``random_tensors(seed)``: a tiny model of one embedding, one layer, one norm and a head."""

    def make(seed: int, *, dtype: torch.dtype = torch.float32, num_labels: int = 3) -> dict[str, Tensor]:
        generator = torch.Generator().manual_seed(seed)
        shapes = {
            "embedding.weight": (7, 4),
            "layer.weight": (5, 4),
            "layer.bias": (5,),
            "norm.weight": (5,),
            "scale": (),
            "classifier.weight": (num_labels, 5),
            "classifier.bias": (num_labels,),
        }
        return {name: torch.randn(shape, generator=generator).to(dtype) for name, shape in shapes.items()}

    return make
