"""What holds for every method in the folder, the next one included (invariants of the specification).

A method whose mathematics has an exception says so in its own test file: ``EXCEPTIONS = {test: reason}``; the
options under which one task returns its model are ``NEUTRAL`` there.
"""

import copy
import itertools
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any

import pytest
import torch
from merging.merge import tensor_merge
from merging.methods._seam import Factors, MaskFisher
from torch import Tensor
from torch.testing import assert_close

MakeInputs = Callable[..., dict[str, Any]]
Run = Callable[..., Tensor]

_CURVATURES = ("base_hessian", "hessians", "base_factors", "factors", "blocks", "mask_fishers", "grams")


def tensors_of(value: Any) -> Iterator[Tensor]:
    """Every tensor inside of an input."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping):
        for its in value.values():
            yield from tensors_of(its)
    elif isinstance(value, Factors):
        yield from tensors_of({"inputs": value.inputs, "outputs": value.outputs})
    elif isinstance(value, MaskFisher):
        yield from tensors_of({"heads": value.heads, "neurons": value.neurons})


def scaled(value: Any, factor: float) -> Any:
    """A curvature times a number."""
    if isinstance(value, Tensor):
        return value * factor
    if isinstance(value, Mapping):
        return {key: scaled(its, factor) for key, its in value.items()}
    if isinstance(value, Factors):
        return replace(value, inputs=value.inputs * factor)
    if isinstance(value, MaskFisher):
        return MaskFisher(value.heads * factor, value.neurons * factor)
    return value


def with_tasks(inputs: dict[str, Any], names: Mapping[str, str]) -> dict[str, Any]:
    """Inputs by task under other names, in the order of ``names``."""
    from merging.methods import is_by_task

    return {
        key: {new: value[old] for old, new in names.items()} if is_by_task(key) else value
        for key, value in inputs.items()
    }


def test_one_task_returns_its_model(
    method: str, neutral: dict[str, Any], min_models: int, make_inputs: MakeInputs, run: Run
) -> None:
    """Where a method wants several models, several times the same one."""
    inputs = make_inputs(method, tasks=tuple("abc"[:min_models]), options=neutral)
    model = inputs["models"]["a"]
    inputs["models"] = dict.fromkeys(inputs["models"], model)
    assert_close(run(method, inputs, **neutral), model)


def test_identical_models_return_themselves(method: str, make_inputs: MakeInputs, run: Run) -> None:
    inputs = make_inputs(method)
    model = inputs["models"]["a"]
    inputs["models"] = dict.fromkeys(inputs["models"], model)
    if "base" in inputs:
        inputs["base"] = model
    assert_close(run(method, inputs), model)


def test_order_of_tasks_does_not_matter(method: str, make_inputs: MakeInputs, run: Run) -> None:
    """Bit for bit: sums go through tasks sorted by name, whatever the order of the mappings."""
    inputs = make_inputs(method, dtype=torch.float32)
    expected = run(method, inputs)
    for order in itertools.permutations(inputs["models"]):
        assert torch.equal(run(method, with_tasks(inputs, dict(zip(order, order, strict=True)))), expected)


def test_names_of_tasks_do_not_matter(method: str, make_inputs: MakeInputs, run: Run) -> None:
    inputs = make_inputs(method)
    names = {"a": "z", "b": "y", "c": "x"}
    renamed = with_tasks(inputs, {old: new for old, new in names.items() if old in inputs["models"]})
    assert_close(run(method, renamed), run(method, inputs))


def test_inputs_are_unchanged(method: str, make_inputs: MakeInputs, run: Run) -> None:
    inputs = make_inputs(method)
    before = copy.deepcopy(inputs)
    run(method, inputs).zero_()  # nor is the result a view of one
    assert all(map(torch.equal, tensors_of(inputs), tensors_of(before)))


def test_zero_curvature_gives_finite_numbers(method: str, make_inputs: MakeInputs, run: Run) -> None:
    """Whatever is zero: some elements of one task, of all tasks, or everything."""
    inputs = make_inputs(method, dtype=torch.float32)
    curvatures = [tensor for key in _CURVATURES for tensor in tensors_of(inputs.get(key, {}))]
    for number, tensor in enumerate(curvatures):
        tensor[:2] = 0
        tensor[min(2 + number, len(tensor) - 1)] = 0
    assert run(method, inputs).isfinite().all()
    for tensor in curvatures:
        tensor.zero_()
    assert run(method, inputs).isfinite().all()


def test_tiny_and_huge_curvature(method: str, make_inputs: MakeInputs, run: Run) -> None:
    """Ratios neither underflow nor overflow in float32."""
    for factor in (1e-30, 1e30):
        inputs = make_inputs(method, dtype=torch.float32)
        for key in ("hessians", "factors", "grams", "blocks", "mask_fishers"):
            if key in inputs:
                inputs[key] = scaled(inputs[key], factor)
        merged = run(method, inputs)
        assert merged.isfinite().all()
        assert merged.abs().max() < 20


def test_unit_of_the_curvature_does_not_matter(method: str, make_inputs: MakeInputs, run: Run) -> None:
    """All curvatures and delta_0 times one constant."""
    inputs = make_inputs(method)
    other = {key: scaled(value, 1000.0) if key in _CURVATURES else value for key, value in inputs.items()}
    takes_delta = method.startswith("gradient_matching")
    options = {"delta_0": 0.01} if takes_delta else {}
    other_options = {"delta_0": 10.0} if takes_delta else {}
    assert_close(run(method, other, **other_options), run(method, inputs, **options))


def test_scalars_vectors_and_tensors(method: str, make_inputs: MakeInputs, run: Run) -> None:
    """The rank is free."""
    for shape in ((), (4,), (2, 3, 4), (0,), (1, 1), (1, 5), (5, 1)):
        merged = run(method, make_inputs(method, shape=shape))
        assert merged.shape == shape
        assert merged.isfinite().all()


def test_float32_is_near_float64(method: str, make_inputs: MakeInputs, run: Run) -> None:
    exact = run(method, make_inputs(method))
    single = run(method, make_inputs(method, dtype=torch.float32))
    assert single.dtype == torch.float32
    assert math.isclose(float((single.double() - exact).abs().max()), 0, abs_tol=1e-4)


def test_equal_to_the_base_stays_the_base(method: str, make_inputs: MakeInputs, run: Run) -> None:
    """Nothing was learnt: whatever the method, nothing changes."""
    inputs = make_inputs(method)
    if "base" not in inputs:
        pytest.skip("takes no base")
    inputs["models"] = dict.fromkeys(inputs["models"], inputs["base"])
    assert_close(run(method, inputs), inputs["base"])


def test_size_of_pieces_does_not_matter(
    method: str, make_inputs: MakeInputs, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What streaming relies on: the pieces of the merge are the merge of the pieces."""
    inputs = make_inputs(method, shape=(12, 5))
    expected = run(method, inputs)
    monkeypatch.setattr(tensor_merge, "PIECE", 7)
    assert_close(run(method, inputs), expected)
