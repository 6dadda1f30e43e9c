"""Weight and bias as one matrix, where the curvature is of both together."""

import functools
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from merging.files.checkpoints import open_checkpoint, weights_hash
from merging.hessians.artifact import HessianRecord, write_hessian
from merging.merge.layers import JointLayer
from merging.merge.streaming import merge_checkpoints, merge_tensors, open_merge
from merging.methods import gradient_matching_kfac
from merging.methods._seam import Factors
from torch import Tensor
from torch.testing import assert_close

Tensors = dict[str, Tensor]
WEIGHT, BIAS, NORM = "layer.weight", "layer.bias", "norm.weight"
INPUTS, OUTPUTS = 4, 3
KFAC = {"others": "task_arithmetic", "damping": 0.02, "tolerance": 1e-12}
MATS = {"num_iterations": 300, "tolerance": 1e-12, "damping": 0.02}


def moment(generator: torch.Generator, size: int) -> Tensor:
    root = torch.randn(size, 2 * size, generator=generator, dtype=torch.float64)
    return root @ root.T / (2 * size)


@pytest.fixture
def factors() -> dict[str, Factors]:
    """Of [W b], for the base and two tasks."""
    generator = torch.Generator().manual_seed(1)
    return {
        name: Factors(moment(generator, INPUTS + 1), moment(generator, OUTPUTS), bias=BIAS)
        for name in ("base", "a", "b")
    }


@pytest.fixture
def models() -> dict[str, Tensors]:
    generator = torch.Generator().manual_seed(0)
    shapes = {WEIGHT: (OUTPUTS, INPUTS), BIAS: (OUTPUTS,), NORM: (2,)}
    return {
        name: {
            key: torch.randn(shape, generator=generator, dtype=torch.float64) for key, shape in shapes.items()
        }
        for name in ("base", "a", "b")
    }


def arguments(method: str, models: dict[str, Any], factors: dict[str, Any]) -> dict[str, Any]:
    """Of a merge; MaTS knows no base."""
    tasks = {"a": factors["a"], "b": factors["b"]}
    is_kfac = method == "gradient_matching_kfac"
    return {
        "method": method,
        "options": KFAC if is_kfac else MATS,
        "base": models["base"],
        "models": {"a": models["a"], "b": models["b"]},
        "extras": {"factors": tasks} | ({"base_factors": factors["base"]} if is_kfac else {}),
    }


def merged(method: str, models: dict[str, Tensors], factors: dict[str, Any], **changes: Any) -> Tensors:
    named = {name: {WEIGHT: its} for name, its in factors.items()}
    given = arguments(method, models, named)
    return merge_tensors(**{**given, "options": {**given["options"], **changes}})


def joined(tensors: Tensors) -> Tensor:
    return torch.cat([tensors[WEIGHT], tensors[BIAS][:, None]], 1)


METHODS = pytest.mark.parametrize("method", ["gradient_matching_kfac", "mats"])


@METHODS
def test_the_bias_is_one_more_input(
    method: str, models: dict[str, Tensors], factors: dict[str, Factors]
) -> None:
    """As the layer [W b] without a bias of its own."""
    found = merged(method, models, factors)
    whole = {name: {WEIGHT: joined(its), NORM: its[NORM]} for name, its in models.items()}
    expected = merged(method, whole, {name: replace(its, bias=None) for name, its in factors.items()})
    assert_close(joined(found), expected[WEIGHT])
    assert_close(found[NORM], expected[NORM])

    def of_weight(its: Factors) -> Factors:
        return replace(its, inputs=its.inputs[:-1, :-1], bias=None)

    apart = merged(method, models, {name: of_weight(its) for name, its in factors.items()})
    assert (found[WEIGHT] - apart[WEIGHT]).abs().max() > 0.01
    assert (found[BIAS] - apart[BIAS]).abs().max() > 0.01


@METHODS
def test_weights_that_are_stored_transposed(
    method: str, models: dict[str, Tensors], factors: dict[str, Factors]
) -> None:
    other = {name: {**its, WEIGHT: its[WEIGHT].T.contiguous()} for name, its in models.items()}
    found = merged(method, other, {name: replace(its, transposed=True) for name, its in factors.items()})
    expected = merged(method, models, factors)
    assert_close(found[WEIGHT].T, expected[WEIGHT])
    assert_close(found[BIAS], expected[BIAS])


def test_kernels_are_rows_of_patches(models: dict[str, Tensors], factors: dict[str, Factors]) -> None:
    other = {name: {**its, WEIGHT: its[WEIGHT].reshape(OUTPUTS, 1, 2, 2)} for name, its in models.items()}
    found = merged("gradient_matching_kfac", other, factors)
    expected = merged("gradient_matching_kfac", models, factors)
    assert found[WEIGHT].shape == (OUTPUTS, 1, 2, 2)
    assert_close(found[WEIGHT].reshape(OUTPUTS, INPUTS), expected[WEIGHT])
    assert_close(found[BIAS], expected[BIAS])


def test_apart_where_the_options_differ_or_one_curvature_is_of_the_weight_alone(
    models: dict[str, Tensors], factors: dict[str, Factors]
) -> None:
    name = "gradient_matching_kfac"
    alone = {key: replace(its, inputs=its.inputs[:-1, :-1], bias=None) for key, its in factors.items()}
    apart = merged(name, models, alone)
    mixed = merged(name, models, {**factors, "base": alone["base"]})
    assert_close(mixed, apart)
    varying = [{"filter": "*.bias", "value": 0.5}, {"value": 1.0}]
    found = merged(name, models, factors, scaling_factor=varying)
    assert_close(found[WEIGHT], apart[WEIGHT])
    assert_close(found[BIAS], merged(name, models, alone, scaling_factor=0.5)[BIAS])


@pytest.fixture
def folders(
    tmp_path: Path,
    write_model: Callable[..., Path],
    models: dict[str, Tensors],
    factors: dict[str, Factors],
) -> dict[str, Any]:
    """Arguments of ``merge_checkpoints``: models and factors on the disk."""
    places = {}
    written = {name: write_model(name, its) for name, its in models.items()}
    for name, its in factors.items():
        assert its.outputs is not None
        places[name] = tmp_path / f"factors_{name}"
        places[name].mkdir()
        record = HessianRecord(
            estimator="kfac_mc",
            task_type="sequence_classification",
            num_examples=5,
            num_train_examples=1,
            model_hash=weights_hash(written[name]),
            model=str(written[name]),
            data=None,
            seed=0,
            statistic="kfac",
            biases={WEIGHT: BIAS},
        )
        stored = {f"{WEIGHT}/inputs": its.inputs, f"{WEIGHT}/outputs": its.outputs}
        write_hessian(places[name], stored, record)
    return arguments("gradient_matching_kfac", written, places)


def test_from_folders(
    folders: dict[str, Any], models: dict[str, Tensors], factors: dict[str, Factors], tmp_path: Path
) -> None:
    """Also where weight and bias go to different files; the record says what was merged together."""
    opened = open_merge(**folders)
    whole = {name: opened.tensor(name) for name in opened.names}
    assert opened.record()["parameters"][WEIGHT]["bias"] == BIAS
    stored = {
        name: replace(its, inputs=its.inputs.float(), outputs=its.outputs.float())  # type: ignore[union-attr]
        for name, its in factors.items()
    }
    assert_close(whole, merged("gradient_matching_kfac", models, stored), rtol=0, atol=0)
    merge_checkpoints(**folders, out=tmp_path / "out", output={"max_shard_size": "100B"})
    assert len(list((tmp_path / "out").glob("model-*.safetensors"))) > 1
    written = open_checkpoint(tmp_path / "out", label="out")
    for name, tensor in whole.items():
        assert written.read(name).equal(tensor), name


def test_a_layer_is_computed_once(folders: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[int, ...]] = []
    merge = gradient_matching_kfac.merge

    @functools.wraps(merge)  # the engine reads the signature
    def watched(base: Tensor, **inputs: Any) -> Tensor:
        seen.append(tuple(base.shape))
        return merge(base, **inputs)

    monkeypatch.setattr(gradient_matching_kfac, "merge", watched)
    opened = open_merge(**folders)
    opened.run(opened.names, lambda name, start, piece: None)
    assert sorted(seen) == [(2,), (OUTPUTS, INPUTS + 1)]


def test_split_undoes_join() -> None:
    generator = torch.Generator().manual_seed(0)
    for shape, transposed in (((3, 4), False), ((4, 3), True), ((3, 2, 2, 1), False)):
        layer = JointLayer("w", "b", shape, transposed)
        weight, bias = torch.randn(shape, generator=generator), torch.randn(3, generator=generator)
        whole = layer.join(weight, bias)
        assert whole.shape == layer.shape == (3, 5)
        assert_close(layer.split(whole), {"w": weight, "b": bias}, rtol=0, atol=0)
