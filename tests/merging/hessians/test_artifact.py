"""The Hessian folder, written and read back."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from merging.errors import CheckpointError
from merging.hessians.artifact import HessianRecord, StoredHessian, write_hessian


def record(**changes: Any) -> HessianRecord:
    return HessianRecord(
        **{
            "estimator": "fisher_mc",
            "task_type": "sequence_classification",
            "num_examples": 5,
            "num_train_examples": 10,
            "model_hash": "abc",
            "model": "models/base",
            "data": [{"source": "imdb", "split": "train"}],
            "seed": 0,
            **changes,
        }
    )


def test_round_trip(tmp_path: Path) -> None:
    values = {"b": torch.rand(3, 2).double(), "a": torch.rand(2, 4).T}
    write_hessian(tmp_path, values, record(options={"batch_size": 4}, seconds=1.5))
    stored = StoredHessian(tmp_path, label="hessian")
    assert stored.record == record(options={"batch_size": 4}, seconds=1.5)
    assert stored.record.reduction == "mean"
    assert set(stored.checkpoint.tensors) == {"a", "b"}
    for name, value in values.items():
        assert stored.checkpoint.read(name).equal(value.float())


@pytest.mark.parametrize("name", ["hessian.json", "hessian.safetensors"])
def test_a_missing_file(name: str, tmp_path: Path) -> None:
    write_hessian(tmp_path, {"a": torch.ones(2)}, record())
    (tmp_path / name).unlink()
    with pytest.raises(
        CheckpointError, match=f"hessians\\['sst2'\\]: .* no Hessian folder: it has no {name}"
    ):
        StoredHessian(tmp_path, label="hessians['sst2']")


def test_a_truncated_file(tmp_path: Path) -> None:
    write_hessian(tmp_path, {"a": torch.ones(2)}, record())
    file = tmp_path / "hessian.safetensors"
    file.write_bytes(file.read_bytes()[:-4])
    with pytest.raises(CheckpointError, match=r"is truncated: tensor 'a'"):
        StoredHessian(tmp_path, label="hessian")


@pytest.mark.parametrize("text", ["{", json.dumps({"estimator": "fisher_mc"}), json.dumps([1])])
def test_a_damaged_record(text: str, tmp_path: Path) -> None:
    write_hessian(tmp_path, {"a": torch.ones(2)}, record())
    (tmp_path / "hessian.json").write_text(text)
    with pytest.raises(CheckpointError, match=r"hessian\.json is damaged"):
        StoredHessian(tmp_path, label="hessian")


def test_a_folder_without_a_statistic_is_a_diagonal(tmp_path: Path) -> None:
    """As the first version wrote them."""
    write_hessian(tmp_path, {"a": torch.ones(2)}, record())
    written = json.loads((tmp_path / "hessian.json").read_text())
    for key in ("statistic", "transposed", "num_positions", "uncovered"):
        del written[key]
    (tmp_path / "hessian.json").write_text(json.dumps(written))
    stored = StoredHessian(tmp_path, label="hessian")
    assert stored.record.statistic == "diagonal" and stored.record.default_scale == 10


def test_reasons_that_earlier_versions_did_not_give(tmp_path: Path) -> None:
    write_hessian(tmp_path, {"a": torch.ones(2)}, record())
    written = json.loads((tmp_path / "hessian.json").read_text())
    (tmp_path / "hessian.json").write_text(json.dumps({**written, "uncovered": ["b"]}))
    assert StoredHessian(tmp_path, label="hessian").record.uncovered == {"b": ""}


def test_a_statistic_of_the_future(tmp_path: Path) -> None:
    write_hessian(tmp_path, {"a": torch.ones(2)}, record())
    written = json.loads((tmp_path / "hessian.json").read_text())
    (tmp_path / "hessian.json").write_text(json.dumps({**written, "statistic": "full"}))
    with pytest.raises(CheckpointError, match="statistic is 'full', but must be one of diagonal, gram, kfac"):
        StoredHessian(tmp_path, label="hessian")


@pytest.mark.parametrize(
    ("statistic", "options", "scale"),
    [
        ("diagonal", {}, 10),
        ("block", {}, 10),
        ("kfac", {"kfac_scale": "consistent"}, 10),
        ("kfac", {"kfac_scale": "reference"}, 1),
        ("gram", {}, 1),
        ("mask_nodes", {}, 1),
    ],
)
def test_what_is_multiplied_by_the_size_of_the_training_set(
    statistic: Any, options: dict[str, Any], scale: float
) -> None:
    assert record(statistic=statistic, options=options).default_scale == scale
