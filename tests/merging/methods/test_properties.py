"""What holds for every method in the folder, the next one included."""

import copy
import inspect
import itertools
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from merging import methods
from torch import Tensor
from torch.testing import assert_close

MakeInputs = Callable[..., dict[str, Any]]
Run = Callable[..., Tensor]


def flattened(inputs: dict[str, Any]) -> list[Tensor]:
    return [
        tensor
        for value in inputs.values()
        for tensor in (value.values() if isinstance(value, dict) else [value])
    ]


def test_one_task_returns_its_model(method: str, make_inputs: MakeInputs, run: Run) -> None:
    inputs = make_inputs(method, tasks=("a",))
    assert_close(run(method, inputs), inputs["models"]["a"])


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
        shuffled = {
            key: {task: value[task] for task in order} if isinstance(value, dict) else value
            for key, value in inputs.items()
        }
        assert torch.equal(run(method, shuffled), expected)


def test_names_of_tasks_do_not_matter(method: str, make_inputs: MakeInputs, run: Run) -> None:
    inputs = make_inputs(method)
    new_names = {"a": "z", "b": "y", "c": "x"}
    renamed = {
        key: {new_names[task]: tensor for task, tensor in value.items()} if isinstance(value, dict) else value
        for key, value in inputs.items()
    }
    assert_close(run(method, renamed), run(method, inputs))


def test_inputs_are_unchanged(method: str, make_inputs: MakeInputs, run: Run) -> None:
    inputs = make_inputs(method)
    before = copy.deepcopy(inputs)
    merged = run(method, inputs)
    merged.zero_()  # nor is the result a view of one
    assert all(map(torch.equal, flattened(inputs), flattened(before)))


def test_zero_curvature_gives_finite_numbers(method: str, make_inputs: MakeInputs, run: Run) -> None:
    """Whatever is zero: some elements of one task, of all tasks, or everything."""
    inputs = make_inputs(method, dtype=torch.float32)
    curvatures = [value for key, value in inputs.items() if "hessian" in key]
    for value in curvatures:
        for number, tensor in enumerate(value.values() if isinstance(value, dict) else [value]):
            tensor[:2] = 0
            tensor[2 + number] = 0
    assert run(method, inputs).isfinite().all()
    for value in curvatures:
        for tensor in value.values() if isinstance(value, dict) else [value]:
            tensor.zero_()
    assert run(method, inputs).isfinite().all()


def test_tiny_and_huge_curvature(method: str, make_inputs: MakeInputs, run: Run) -> None:
    """Ratios neither underflow nor overflow in float32."""
    for scale in (1e-35, 1e35):
        inputs = make_inputs(method, dtype=torch.float32)
        for key in inputs:
            if key == "hessians":
                inputs[key] = {task: tensor * scale for task, tensor in inputs[key].items()}
        merged = run(method, inputs)
        assert merged.isfinite().all()
        assert merged.abs().max() < 20


def test_unit_of_the_curvature_does_not_matter(method: str, make_inputs: MakeInputs, run: Run) -> None:
    inputs = make_inputs(method)
    scaled = {
        key: value
        if "hessian" not in key
        else {task: 1000 * tensor for task, tensor in value.items()}
        if isinstance(value, dict)
        else 1000 * value
        for key, value in inputs.items()
    }
    options = {"delta_0": 0.01} if method == "gradient_matching" else {}
    scaled_options = {"delta_0": 10.0} if method == "gradient_matching" else {}
    assert_close(run(method, scaled, **scaled_options), run(method, inputs, **options))


def test_scalars_vectors_and_tensors(method: str, make_inputs: MakeInputs, run: Run) -> None:
    """The rank is free; elementwise methods give the same on the flat tensor."""
    for shape in ((), (4,), (2, 3, 4), (0,), (1, 1)):
        inputs = make_inputs(method, shape=shape)
        flat = {
            key: {task: tensor.reshape(-1) for task, tensor in value.items()}
            if isinstance(value, dict)
            else value.reshape(-1)
            for key, value in inputs.items()
        }
        merged = run(method, inputs)
        assert merged.shape == shape
        assert_close(merged.reshape(-1), run(method, flat))


def test_float32_is_near_float64(method: str, make_inputs: MakeInputs, run: Run) -> None:
    exact = run(method, make_inputs(method))
    single = run(method, make_inputs(method, dtype=torch.float32))
    assert single.dtype == torch.float32
    assert math.isclose(float((single.double() - exact).abs().max()), 0, abs_tol=1e-5)


def test_pieces_of_an_elementwise_method(method: str, make_inputs: MakeInputs) -> None:
    """What streaming relies on: with one summary, the pieces of the merge are the merge of the pieces."""
    module = methods.load(method)
    if not (hasattr(module, "is_elementwise") and module.is_elementwise(module.Options())):
        pytest.skip("not elementwise")
    inputs = make_inputs(method, shape=(12,))
    arguments: dict[str, Any] = {"options": module.Options()}
    if "summary" in inspect.signature(module.merge).parameters:
        arguments["summary"] = module.summarize(iter([inputs]), module.Options())

    def piece(start: int, stop: int) -> Tensor:
        cut = {
            key: {task: tensor[start:stop] for task, tensor in value.items()}
            if isinstance(value, dict)
            else value[start:stop]
            for key, value in inputs.items()
        }
        merged: Tensor = module.merge(**cut, **arguments)
        return merged

    assert_close(torch.cat([piece(0, 5), piece(5, 12)]), module.merge(**inputs, **arguments))
