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


def test_the_pulls_of_all_models_cancel(make_inputs: MakeInputs, run: Run) -> None:
    """What defines the mean: the weighted sum of the logarithm maps is 0."""
    models = make_inputs("karcher")["models"]
    weights = {"a": 0.5, "b": 0.3, "c": 0.2}
    merged = run("karcher", {"models": models}, weights=weights, max_iter=100, tol=1e-10)
    mean = merged / merged.norm()
    pull = torch.zeros_like(mean)
    for task, model in models.items():
        unit = model / model.norm()
        cosine = (mean * unit).sum()
        angle = cosine.arccos()
        pull += weights[task] * angle / angle.sin() * (unit - cosine * mean)
    assert pull.norm() < 1e-8
    assert_close(merged.norm(), sum(weights[task] * model.norm() for task, model in models.items()))


def test_two_models_of_one_norm_meet_halfway(make_inputs: MakeInputs, run: Run) -> None:
    models = {task: model / model.norm() for task, model in make_inputs("karcher")["models"].items()}
    ends = {"base": models["a"], "models": {"b": models["b"]}}
    merged = run("karcher", {"models": {task: models[task] for task in "ab"}}, tol=1e-10)
    assert_close(merged, run("slerp", ends, t=0.5))


def test_weights_go_along_the_arc(make_inputs: MakeInputs, run: Run) -> None:
    models = {task: model / model.norm() for task, model in make_inputs("karcher")["models"].items()}
    ends = {"base": models["a"], "models": {"b": models["b"]}}
    weights = {"a": 3.0, "b": 1.0}
    two = {task: models[task] for task in "ab"}
    merged = run("karcher", {"models": two}, weights=weights, tol=1e-10, max_iter=50)
    assert_close(merged, run("slerp", ends, t=0.25))


def test_a_zero_model_counts_in_the_scale_only(make_inputs: MakeInputs, run: Run) -> None:
    models = make_inputs("karcher")["models"]
    two = run("karcher", {"models": {task: models[task] for task in "ab"}})
    three = run("karcher", {"models": {**models, "c": torch.zeros_like(models["c"])}})
    assert_close(three, two * 2 / 3)


def test_zero_models_and_weights(make_inputs: MakeInputs, run: Run) -> None:
    assert not run("karcher", {"models": dict.fromkeys("ab", torch.zeros(4))}).any()
    models = make_inputs("karcher")["models"]
    assert_close(run("karcher", {"models": models}, weights={"a": 0.0, "b": 0.0, "c": 2.0}), models["c"])


def test_no_step_is_the_normalised_mean(make_inputs: MakeInputs, run: Run) -> None:
    inputs = make_inputs("karcher")
    assert_close(run("karcher", inputs, max_iter=0), run("multislerp", inputs, eps=0.0))


def test_nearly_equal_models_in_float32(run: Run) -> None:
    generator = torch.Generator().manual_seed(0)
    base = torch.randn(200_000, generator=generator)
    models = {task: base + 1e-3 * torch.randn(200_000, generator=generator) for task in "abc"}
    exact = run("karcher", {"models": {task: model.double() for task, model in models.items()}})
    assert_close(run("karcher", {"models": models}), exact.float())


def test_opposite_models(run: Run) -> None:
    """Are refused; but numbers are averaged, since a sphere of two points has no mean."""
    one = torch.tensor([1.0, 2.0])
    with pytest.raises(OptionError, match="karcher: a model is opposite to the mean direction in 'w'"):
        run("karcher", {"models": {"a": one, "b": -one}})
    numbers = {"a": torch.tensor([[3.0]]), "b": torch.tensor([[-1.0]])}
    assert run("karcher", {"models": numbers}) == 1.0


def test_bad_options() -> None:
    options = methods.load("karcher").Options
    for wrong, text in (
        ({"weights": {"a": -1.0, "b": 2.0}}, "karcher: weights must be finite and >= 0"),
        ({"weights": 0.0}, "karcher: weights must not sum to 0"),
        ({"tol": 0.0}, "karcher: tol must be > 0"),
        ({"tol": math.inf}, "karcher: tol must be finite"),
        ({"max_iter": -1}, "karcher: max_iter must be >= 0, got -1"),
    ):
        with pytest.raises(OptionError, match=text):
            options(**wrong)
