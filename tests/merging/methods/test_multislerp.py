import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from merging import methods
from merging.errors import OptionError
from torch import Tensor
from torch.testing import assert_close

MakeInputs = Callable[..., dict[str, Any]]
Run = Callable[..., Tensor]

WEIGHTS = {"a": 1.0, "b": 0.6, "c": 0.9}


def reference(models: dict[str, Tensor], weights: dict[str, float]) -> Tensor:
    """With the walk along the sphere, whose length is 0."""
    units = {task: model / model.norm() for task, model in models.items()}
    mean = sum((weights[task] * units[task] for task in models), start=torch.zeros(()))
    mean = mean / mean.norm()
    tangent = sum(
        (weights[task] * (unit - (unit * mean).sum() * mean) for task, unit in units.items()),
        start=torch.zeros(()),
    )
    step = tangent.norm()
    direction = mean * step.cos() + tangent * torch.sinc(step / math.pi)
    merged: Tensor = direction * sum(weights[task] * model.norm() for task, model in models.items())
    return merged


def test_formula(make_inputs: MakeInputs, run: Run) -> None:
    inputs = make_inputs("multislerp")
    shares = {task: weight / 2.5 for task, weight in WEIGHTS.items()}
    assert_close(run("multislerp", inputs, weights=WEIGHTS), reference(inputs["models"], shares))


def test_weights_as_they_are_also_scale(make_inputs: MakeInputs, run: Run) -> None:
    inputs = make_inputs("multislerp")
    merged = run("multislerp", inputs, weights=WEIGHTS, normalize=False)
    assert_close(merged, 2.5 * run("multislerp", inputs, weights=WEIGHTS))


def test_relative_to_base(make_inputs: MakeInputs, run: Run) -> None:
    inputs = make_inputs("multislerp", options={"relative_to_base": True})
    base = inputs["base"]
    deltas = {task: model - base for task, model in inputs["models"].items()}
    merged = run("multislerp", inputs, weights=WEIGHTS, relative_to_base=True)
    assert_close(merged, base + run("multislerp", {"models": deltas}, weights=WEIGHTS))


def test_models_of_one_norm_keep_it(make_inputs: MakeInputs, run: Run) -> None:
    models = {task: model * (5 / model.norm()) for task, model in make_inputs("multislerp")["models"].items()}
    assert math.isclose(run("multislerp", {"models": models}).norm(), 5.0)


def test_eps_lets_short_vectors_say_less(run: Run) -> None:
    models = {"a": torch.tensor([1.0, 0.0]), "b": torch.tensor([0.0, 100.0])}
    merged = run("multislerp", {"models": models}, eps=1.0)
    assert_close(merged[0] / merged[1], torch.tensor((1 / 2) / (100 / 101)))


def test_opposite_models(run: Run) -> None:
    """Two are averaged, three are refused, numbers are averaged."""
    one = torch.tensor([1.0, 2.0, 3.0])
    merged = run("multislerp", {"models": {"a": one, "b": -3 * one}})
    assert_close(merged, -one)
    corners = [torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0]), torch.tensor([-1.0, 0.0])]
    models = dict(zip("abcd", [*corners, torch.tensor([0.0, -1.0])], strict=True))
    with pytest.raises(OptionError, match="multislerp: the models' directions cancel in 'w'"):
        run("multislerp", {"models": models})
    numbers = {
        task: torch.tensor([value]) for task, value in zip("abcd", (1.0, 3.0, -2.0, -6.0), strict=True)
    }
    assert_close(run("multislerp", {"models": numbers}), torch.tensor([-1.0]))


def test_zero_models(run: Run) -> None:
    zeros = dict.fromkeys("abc", torch.zeros(3))
    assert not run("multislerp", {"models": zeros}).any()


def test_bad_options() -> None:
    options = methods.load("multislerp").Options
    with pytest.raises(OptionError, match="multislerp: weights must not sum to 0"):
        options(weights={"a": 1.0, "b": -1.0})
    options(weights={"a": 1.0, "b": -1.0}, normalize=False)
    with pytest.raises(OptionError, match="multislerp: eps must be finite and >= 0"):
        options(eps=-1.0)
