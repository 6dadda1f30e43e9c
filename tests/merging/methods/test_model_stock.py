import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from merging.merge.streaming import merge_tensors
from torch import Tensor
from torch.testing import assert_close

MakeInputs = Callable[..., dict[str, Any]]
Run = Callable[..., Tensor]


def reference(base: Tensor, models: list[Tensor]) -> Tensor:
    """One angle, any ratio."""
    deltas = [model - base for model in models]
    pairs = [(one, two) for index, one in enumerate(deltas) for two in deltas[:index]]
    cosine = sum(float((one * two).sum() / one.norm() / two.norm()) for one, two in pairs) / len(pairs)
    ratio = len(models) * cosine / (1 + (len(models) - 1) * cosine)
    return base + ratio * torch.stack(deltas).mean(0)


def alike(inputs: dict[str, Any]) -> dict[str, Any]:
    """Task vectors at sharp angles: the ratio lies in 0..1."""
    common = inputs["models"]["a"]
    models = {task: inputs["base"] + common + 0.7 * model for task, model in inputs["models"].items()}
    return {**inputs, "models": models}


@pytest.mark.parametrize("clip_ratio", [True, False])
def test_formula(clip_ratio: bool, make_inputs: MakeInputs, run: Run) -> None:
    inputs = alike(make_inputs("model_stock"))
    expected = reference(inputs["base"], list(inputs["models"].values()))
    assert_close(run("model_stock", inputs, clip_ratio=clip_ratio), expected)


def test_a_ratio_for_each_row(make_inputs: MakeInputs, run: Run) -> None:
    inputs = make_inputs("model_stock")
    rows = zip(inputs["base"], *inputs["models"].values(), strict=True)
    expected = torch.stack([reference(base, models) for base, *models in rows])
    assert_close(run("model_stock", inputs, filter_wise=True, clip_ratio=False), expected)


def test_a_filter_of_a_convolution_is_a_row(make_inputs: MakeInputs, run: Run) -> None:
    inputs = make_inputs("model_stock", shape=(3, 2, 2, 2))
    flat = {
        "base": inputs["base"].reshape(3, 8),
        "models": {task: model.reshape(3, 8) for task, model in inputs["models"].items()},
    }
    merged = run("model_stock", inputs, filter_wise=True)
    assert_close(merged.reshape(3, 8), run("model_stock", flat, filter_wise=True))


def test_outputs_are_columns_where_the_weight_is_transposed(make_inputs: MakeInputs, run: Run) -> None:
    inputs = make_inputs("model_stock")
    transposed = merge_tensors(
        method="model_stock",
        options={"filter_wise": True},
        base={"w": inputs["base"].T.contiguous()},
        models={task: {"w": model.T.contiguous()} for task, model in inputs["models"].items()},
        extras={},
        transposed={"w"},
    )["w"]
    assert_close(transposed, run("model_stock", inputs, filter_wise=True).T)


def test_orthogonal_models_leave_the_base(run: Run) -> None:
    base = torch.tensor([5.0, 5.0, 5.0])
    models = {task: base + row for task, row in zip("abc", torch.eye(3), strict=True)}
    assert_close(run("model_stock", {"base": base, "models": models}), base)


def test_opposing_models_leave_the_base(run: Run) -> None:
    """The formula would walk away from them, and divides by 0 for opposite ones."""
    base = torch.tensor([1.0, 1.0])
    for aside in (0.0, 0.5):
        models = {"a": base + torch.tensor([1.0, aside]), "b": base + torch.tensor([-1.0, aside])}
        assert_close(run("model_stock", {"base": base, "models": models}), base)
    away = run("model_stock", {"base": base, "models": models}, clip_ratio=False)
    assert away[1] < 1.0


def test_a_zero_task_vector_says_nothing_of_the_angle(run: Run) -> None:
    base = torch.tensor([1.0, 1.0])
    models = {"a": base, "b": torch.tensor([3.0, 1.0])}
    assert_close(run("model_stock", {"base": base, "models": models}), torch.tensor([2.0, 1.0]))


def test_small_task_vectors_are_no_special_case(make_inputs: MakeInputs, run: Run) -> None:
    """mergekit's floor under the product of norms leaves them out."""
    inputs = alike(make_inputs("model_stock"))
    base = torch.zeros_like(inputs["base"])
    models = {task: 1e-5 * (model - inputs["base"]) for task, model in inputs["models"].items()}
    merged = run("model_stock", {"base": base, "models": models})
    assert_close(merged, reference(base, list(models.values())))
    floored = run("model_stock", {"base": base, "models": models}, clip_ratio=False)
    assert floored.norm() < 0.1 * merged.norm()


def test_average_of_angles(run: Run) -> None:
    """Angles of 0, 60 and 60 degrees: 40, not the 48.2 of the mean cosine 2/3."""
    base = torch.zeros(2, dtype=torch.float64)
    one = torch.tensor([1.0, 0.0], dtype=torch.float64)
    other = torch.tensor([0.5, math.sqrt(0.75)], dtype=torch.float64)
    inputs = {"base": base, "models": {"a": one, "b": one, "c": other}}
    mean = (2 * one + other) / 3
    for average_of, cosine in (("angles", math.cos(math.radians(40))), ("cosines", 2 / 3)):
        expected = 3 * cosine / (1 + 2 * cosine) * mean
        assert_close(run("model_stock", inputs, average_of=average_of), expected)
