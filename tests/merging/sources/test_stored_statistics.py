"""Hessian folders, opened for the inputs of methods."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from merging.errors import CheckpointError
from merging.hessians.artifact import HessianRecord, write_hessian
from merging.methods._seam import Factors, MaskFisher
from merging.sources.statistics import HessianSource, Statistic
from merging.sources.stored_statistics import open_statistics
from torch import Tensor

N = 10


def write(folder: Path, statistic: Any, tensors: Mapping[str, Tensor], **changes: Any) -> Path:
    record = HessianRecord(
        estimator="some",
        task_type="sequence_classification",
        num_examples=5,
        num_train_examples=N,
        model_hash="abc",
        model="models/base",
        data=[],
        seed=0,
        statistic=statistic,
        **changes,
    )
    write_hessian(folder, tensors, record)
    return folder


def opened(folder: Path, key: str, **options: Any) -> Any:
    return open_statistics(folder, label=f"{key}['sst2']", key=key, **options)


def test_factors(tmp_path: Path) -> None:
    inputs, outputs = torch.eye(3), torch.eye(2) * 2
    write(
        tmp_path,
        "kfac",
        {"h.weight/inputs": inputs, "h.weight/outputs": outputs},
        transposed=("h.weight",),
        num_positions={"h.weight": 7},
    )
    source = opened(tmp_path, "factors")
    assert isinstance(source, Statistic) and list(source.names) == ["h.weight"]
    factors = source.of("h.weight")
    assert isinstance(factors, Factors) and factors.outputs is not None
    assert factors.inputs.equal(inputs) and factors.outputs.equal(outputs)
    assert (factors.transposed, factors.num_positions, factors.scale) == (True, 7, N)
    assert source.of("h.bias") is None
    assert opened(tmp_path, "factors", scale=0.5).of("h.weight").scale == 0.5
    grams = opened(tmp_path, "grams").of("h.weight")
    assert grams.outputs is None and grams.scale == 1


def test_grams(tmp_path: Path) -> None:
    write(tmp_path, "gram", {"a.weight/inputs": torch.eye(3)})
    factors = opened(tmp_path, "grams").of("a.weight")
    assert factors.outputs is None and factors.scale == 1 and not factors.transposed


def test_means_over_positions_are_no_grams(tmp_path: Path) -> None:
    tensors = {"h.weight/inputs": torch.eye(3), "h.weight/outputs": torch.eye(2)}
    write(tmp_path, "kfac", tensors, options={"kfac_sharing": "reduce"})
    assert opened(tmp_path, "factors").of("h.weight").inputs.equal(torch.eye(3))
    with pytest.raises(
        CheckpointError, match=r"grams\['sst2'\] holds K-FAC factors of kfac_sharing 'reduce'"
    ):
        opened(tmp_path, "grams")


def test_diagonals_blocks_and_masks(tmp_path: Path) -> None:
    for name in ("diagonal", "block", "mask_nodes"):
        (tmp_path / name).mkdir()
    write(tmp_path / "diagonal", "diagonal", {"a": torch.ones(2)})
    diagonal = opened(tmp_path / "diagonal", "hessians")
    assert isinstance(diagonal, HessianSource) and diagonal.read("a").equal(torch.full((2,), 10.0))
    write(tmp_path / "block", "block", {"a": torch.eye(2)})
    assert opened(tmp_path / "block", "blocks").of("a").equal(torch.eye(2) * N)
    assert opened(tmp_path / "block", "blocks").of("b") is None
    write(tmp_path / "mask_nodes", "mask_nodes", {"heads": torch.ones(2, 3), "neurons": torch.ones(2, 5)})
    masks = opened(tmp_path / "mask_nodes", "mask_fishers", scale=2.0).of("any")
    assert isinstance(masks, MaskFisher)
    assert masks.heads.equal(torch.full((2, 3), 2.0)) and masks.neurons.shape == (2, 5)


@pytest.mark.parametrize(
    ("statistic", "key", "message"),
    [
        ("diagonal", "grams", r"holds the statistic 'diagonal' .*grams needs 'gram' or 'kfac'.*with gram or"),
        ("gram", "factors", r"factors\['sst2'\] holds .* needs 'kfac'. Estimate it with kfac_mc or"),
        ("kfac", "hessians", "hessians needs 'diagonal'. Estimate it with fisher_mc"),
        ("kfac", "mask_fishers", "mask_fishers needs 'mask_nodes'"),
        ("diagonal", "blocks", "blocks needs 'block'"),
    ],
)
def test_the_wrong_statistic(statistic: str, key: str, message: str, tmp_path: Path) -> None:
    write(tmp_path, statistic, {"a": torch.ones(2)})
    with pytest.raises(CheckpointError, match=message):
        opened(tmp_path, key)


@pytest.mark.parametrize(
    ("statistic", "key", "tensors", "message"),
    [
        ("kfac", "factors", {"a/inputs": torch.eye(2)}, "'a/outputs' is missing"),
        ("gram", "grams", {"a/inputs": torch.ones(2, 3)}, r"'a/inputs' is \(2, 3\), not square"),
        ("mask_nodes", "mask_fishers", {"heads": torch.ones(2, 2)}, "'neurons' is missing"),
    ],
)
def test_missing_parts(
    statistic: str, key: str, tensors: dict[str, Tensor], message: str, tmp_path: Path
) -> None:
    write(tmp_path, statistic, tensors)
    with pytest.raises(CheckpointError, match=message):
        opened(tmp_path, key)
