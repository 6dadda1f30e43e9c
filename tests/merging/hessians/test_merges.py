"""From a model folder and data to a merge, for every kind of statistic."""

import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from merging.errors import CheckpointError
from merging.hessians.estimate import estimate
from merging.merge.streaming import merge_checkpoints
from safetensors.torch import load_file, save_file
from torch import Tensor

# estimator -> method, its options, the input, what the statistic must change
CASES: dict[str, tuple[str, dict[str, Any], str, str]] = {
    "gram": ("regmean", {}, "grams", "intermediate.dense.weight"),
    "kfac_empirical": ("mats", {"objective": "kfac", "num_iterations": 5}, "factors", "output.dense.weight"),
    "block_mc": ("mats", {"objective": "block", "num_iterations": 5}, "blocks", "LayerNorm.weight"),
    "mask_nodes": ("fisher_mask_nodes", {}, "mask_fishers", "query.weight"),
}


@pytest.fixture
def models(tmp_path: Path, write_bert: Callable[..., Path]) -> dict[str, Path]:
    """Two models that differ by noise."""
    first = write_bert()
    second = tmp_path / "other"
    shutil.copytree(first, second)
    generator = torch.Generator().manual_seed(1)
    tensors = {
        name: tensor + 0.3 * torch.randn(tensor.shape, generator=generator)
        for name, tensor in load_file(first / "model.safetensors").items()
    }
    save_file(tensors, second / "model.safetensors", metadata={"format": "pt"})
    return {"a": first, "b": second}


def merged(out: Path, method: str, models: Mapping[str, Path], **settings: Any) -> dict[str, Tensor]:
    settings = {"options": {}, "base": None, "extras": {}, **settings}
    merge_checkpoints(method=method, models=models, out=out, **settings)
    return load_file(out / "model.safetensors")


@pytest.mark.parametrize("estimator", CASES)
def test_a_statistic_serves_its_merge(
    estimator: str, tmp_path: Path, models: dict[str, Path], write_texts: Callable[..., Path]
) -> None:
    data = {"data": str(write_texts([0, 1] * 10)), "split": "train"}
    folders = {}
    for task, model in models.items():
        folders[task] = tmp_path / f"{estimator}_{task}"
        estimate(
            estimator=estimator,
            task_type="sequence_classification",
            model=model,
            data=data,
            options={"max_tokens": 8},
            seed=0,
            out=folders[task],
        )
    method, options, key, changed = CASES[estimator]
    found = merged(tmp_path / "out", method, models, options=options, extras={key: folders})
    average = merged(tmp_path / "average", "average", models)
    assert found.keys() == average.keys()
    assert all(tensor.isfinite().all() for tensor in found.values())
    names = [name for name in found if name.endswith(changed)]
    assert names and all((found[name] - average[name]).abs().max() > 1e-3 for name in names)

    swapped = {"a": folders["b"], "b": folders["a"]}
    with pytest.raises(CheckpointError, match=rf"{key}\['a'\] was estimated at other weights than models"):
        merged(tmp_path / "wrong", method, models, options=options, extras={key: swapped})


def test_the_wrong_statistic_is_refused(
    tmp_path: Path, models: dict[str, Path], write_texts: Callable[..., Path]
) -> None:
    estimate(
        estimator="fisher_mc",
        task_type="sequence_classification",
        model=models["a"],
        data={"data": str(write_texts([0, 1])), "split": "train"},
        options={"max_tokens": 8},
        seed=0,
        out=tmp_path / "diagonal",
    )
    given = dict.fromkeys(models, tmp_path / "diagonal")
    with pytest.raises(CheckpointError, match="grams needs 'gram' or 'kfac'"):
        merged(tmp_path / "out", "regmean", models, extras={"grams": given})


@pytest.mark.parametrize("estimator", [*CASES, "fisher_mc"])
def test_a_statistic_of_another_shape_is_refused(
    estimator: str, tmp_path: Path, models: dict[str, Path], write_texts: Callable[..., Path]
) -> None:
    """Of the same model by its hash, as a damaged file or a hand-made one would be."""
    folder = tmp_path / "cut"
    estimate(
        estimator=estimator,
        task_type="sequence_classification",
        model=models["a"],
        data={"data": str(write_texts([0, 1])), "split": "train"},
        options={"max_tokens": 8},
        seed=0,
        out=folder,
    )
    tensors = load_file(folder / "hessian.safetensors")
    name = next(name for name, tensor in tensors.items() if tensor.dim() == 2)
    tensors[name] = tensors[name][:-1, :-1].contiguous()
    save_file(tensors, folder / "hessian.safetensors", metadata={"format": "pt"})
    method, options, key, _ = CASES.get(estimator, ("fisher", {}, "hessians", ""))
    given = {"models": {"a": models["a"]}, "options": options, "extras": {key: {"a": folder}}}
    with pytest.raises(
        CheckpointError, match=r"factor is \(7, 7\)|do not fit|and \(15, 7\) in hessians\['a'\]"
    ):
        merged(tmp_path / "out", method, **given)
    assert not (tmp_path / "out").exists()
