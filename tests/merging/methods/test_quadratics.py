"""End to end where the theory is exact: quadratic losses with known minima."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

Run = Callable[..., Tensor]
SIZE = 6


class Quadratic:
    """loss(theta) = 1/2 (theta - minimum)^T diag(curvature) (theta - minimum)."""

    def __init__(self, generator: torch.Generator) -> None:
        self.minimum = torch.randn(SIZE, generator=generator, dtype=torch.float64)
        self.curvature = torch.rand(SIZE, generator=generator, dtype=torch.float64) + 0.1

    def __call__(self, theta: Tensor) -> Tensor:
        return (self.curvature * (theta - self.minimum) ** 2).sum() / 2


def minimize(loss: Callable[[Tensor], Tensor]) -> Tensor:
    """One Newton step, which is exact for quadratics; curvatures are diagonal."""
    theta = torch.zeros(SIZE, dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(loss(theta), theta, create_graph=True)
    (curvature,) = torch.autograd.grad(gradient.sum(), theta)
    return (theta - gradient / curvature).detach()


@pytest.fixture
def losses() -> dict[str, Quadratic]:
    generator = torch.Generator().manual_seed(0)
    return {name: Quadratic(generator) for name in ("base", "a", "b", "c")}


ALPHA = {"a": 1.0, "b": 0.5, "c": 2.0}


def joint(losses: dict[str, Quadratic], *, ridge: float = 0.0) -> Tensor:
    """Minimum of the wanted sum."""
    return minimize(
        lambda theta: (
            losses["base"](theta)
            + ridge / 2 * theta.square().sum()
            + sum(factor * losses[task](theta) for task, factor in ALPHA.items())
        )
    )


@pytest.mark.parametrize("delta_0", [1e-12, 0.3])
def test_gradient_matching_after_proximal_training(
    losses: dict[str, Quadratic], run: Run, delta_0: float
) -> None:
    """Tasks trained with the term (theta - theta_0)^T H_0 (theta - theta_0) / 2: exact."""
    ridge = delta_0
    base = minimize(lambda theta: losses["base"](theta) + ridge / 2 * theta.square().sum())
    prior = losses["base"].curvature + ridge
    models = {
        task: minimize(lambda theta, its=losses[task]: its(theta) + (prior * (theta - base) ** 2).sum() / 2)
        for task in ALPHA
    }
    inputs: dict[str, Any] = {
        "base": base,
        "models": models,
        "base_hessian": losses["base"].curvature,
        "hessians": {task: losses[task].curvature for task in ALPHA},
    }
    merged = run("gradient_matching", inputs, scaling_factor=ALPHA, delta_0=delta_0)
    assert_close(merged, joint(losses, ridge=ridge))


def test_gradient_matching_with_the_base_as_anchor_after_plain_training(
    losses: dict[str, Quadratic], run: Run
) -> None:
    inputs: dict[str, Any] = {
        "base": losses["base"].minimum,
        "models": {task: losses[task].minimum for task in ALPHA},
        "base_hessian": losses["base"].curvature,
        "hessians": {task: losses[task].curvature for task in ALPHA},
    }
    merged = run("gradient_matching", inputs, scaling_factor=ALPHA, anchor="base")
    assert_close(merged, joint(losses))
    other = run("gradient_matching", inputs, scaling_factor=ALPHA)
    assert (other - joint(losses)).abs().max() > 0.1, "the other anchor is for other training"


def test_fisher_after_plain_training(losses: dict[str, Quadratic], run: Run) -> None:
    """Without a pretraining loss the weighted mean is the minimum of the sum of the tasks' losses."""
    inputs: dict[str, Any] = {
        "models": {task: losses[task].minimum for task in ALPHA},
        "hessians": {task: losses[task].curvature for task in ALPHA},
    }
    expected = minimize(lambda theta: sum(factor * losses[task](theta) for task, factor in ALPHA.items()))
    assert_close(run("fisher", inputs, weights=ALPHA, floor=0.0), expected)


def test_task_arithmetic_misses_it(losses: dict[str, Quadratic], run: Run) -> None:
    """The gap that gradient matching closes is there."""
    inputs: dict[str, Any] = {
        "base": losses["base"].minimum,
        "models": {task: losses[task].minimum for task in ALPHA},
    }
    assert (run("task_arithmetic", inputs, scaling_factor=ALPHA) - joint(losses)).abs().max() > 0.1
