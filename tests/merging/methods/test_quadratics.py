"""End to end where the theory is exact: quadratic losses with known minima."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from merging.methods._seam import Factors
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
def run(run: Run) -> Run:
    """With exactly the curvatures that are given: without damping."""

    def call(method: str, inputs: dict[str, Any], **options: Any) -> Tensor:
        exact: dict[str, Any] = {"damping": 0.0} if method in ("mats", "gradient_matching_kfac") else {}
        if method == "gradient_matching_kfac":
            exact |= {"prior": "base_factors" in inputs, "others": "task_arithmetic"}
        return run(method, inputs, **{**exact, **options})

    return call


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


class Layer:
    """loss(W) = 1/2 tr(G (W - minimum) A (W - minimum)^T): curvature of a whole layer, A (x) G."""

    shape = (4, 3)

    def __init__(self, generator: torch.Generator) -> None:
        outputs, inputs = (torch.randn(n, n, generator=generator, dtype=torch.float64) for n in self.shape)
        self.minimum = torch.randn(self.shape, generator=generator, dtype=torch.float64)
        self.factors = Factors(
            inputs @ inputs.T + 0.1 * torch.eye(3), outputs @ outputs.T + 0.1 * torch.eye(4)
        )

    def __call__(self, weight: Tensor) -> Tensor:
        step = weight - self.minimum
        return (step * (self.factors.outputs @ step @ self.factors.inputs)).sum() / 2


def minimize_layer(loss: Callable[[Tensor], Tensor]) -> Tensor:
    """One Newton step with the full Hessian, from autograd."""
    start = torch.zeros(Layer.shape, dtype=torch.float64)
    hessian = torch.autograd.functional.hessian(loss, start).reshape(start.numel(), start.numel())
    gradient = torch.autograd.functional.jacobian(loss, start).reshape(start.numel())
    return -torch.linalg.solve(hessian, gradient).reshape(Layer.shape)


@pytest.fixture
def layers() -> dict[str, Layer]:
    generator = torch.Generator().manual_seed(0)
    return {name: Layer(generator) for name in ("base", "a", "b", "c")}


def joint_layer(layers: dict[str, Layer], *, with_base: bool = True, ridge: float = 0.0) -> Tensor:
    return minimize_layer(
        lambda weight: (
            with_base * layers["base"](weight)
            + ridge / 2 * weight.square().sum()
            + sum(factor * layers[task](weight) for task, factor in ALPHA.items())
        )
    )


@pytest.mark.parametrize("delta_0", [1e-12, 0.3])
def test_layerwise_gradient_matching_after_proximal_training(
    layers: dict[str, Layer], run: Run, delta_0: float
) -> None:
    base = minimize_layer(lambda weight: layers["base"](weight) + delta_0 / 2 * weight.square().sum())

    def proximal(weight: Tensor) -> Tensor:
        step = weight - base
        curved = layers["base"].factors.outputs @ step @ layers["base"].factors.inputs
        return (step * (curved + delta_0 * step)).sum() / 2

    models = {
        task: minimize_layer(lambda weight, its=layers[task]: its(weight) + proximal(weight))
        for task in ALPHA
    }
    inputs: dict[str, Any] = {
        "base": base,
        "models": models,
        "base_factors": layers["base"].factors,
        "factors": {task: layers[task].factors for task in ALPHA},
    }
    options = {"scaling_factor": ALPHA, "delta_0": delta_0}
    merged = run("gradient_matching_kfac", inputs, **options, tolerance=1e-12)
    assert_close(merged, joint_layer(layers, ridge=delta_0))

    def hessian(its: Factors) -> Tensor:
        return torch.outer(its.outputs.diagonal(), its.inputs.diagonal())

    diagonal = {
        "base": base,
        "models": models,
        "base_hessian": hessian(layers["base"].factors),
        "hessians": {task: hessian(layers[task].factors) for task in ALPHA},
    }
    other = run("gradient_matching", diagonal, **options)
    assert (other - joint_layer(layers, ridge=delta_0)).abs().max() > 0.1, "diagonals are not enough here"


def test_layerwise_gradient_matching_with_the_base_as_anchor_after_plain_training(
    layers: dict[str, Layer], run: Run
) -> None:
    inputs: dict[str, Any] = {
        "base": layers["base"].minimum,
        "models": {task: layers[task].minimum for task in ALPHA},
        "base_factors": layers["base"].factors,
        "factors": {task: layers[task].factors for task in ALPHA},
    }
    merged = run("gradient_matching_kfac", inputs, scaling_factor=ALPHA, anchor="base", tolerance=1e-12)
    assert_close(merged, joint_layer(layers))


def test_mats_after_plain_training(layers: dict[str, Layer], run: Run) -> None:
    inputs: dict[str, Any] = {
        "models": {task: layers[task].minimum for task in ALPHA},
        "factors": {task: layers[task].factors for task in ALPHA},
    }
    expected = joint_layer(layers, with_base=False)
    assert_close(run("mats", inputs, weights=ALPHA, tolerance=1e-12), expected)
    plain = run("average", {"models": inputs["models"]}, weights=ALPHA)
    assert (plain - expected).abs().max() > 0.1


def test_mats_with_blocks_after_plain_training(layers: dict[str, Layer], run: Run) -> None:
    """A vector with its full curvature."""
    inputs: dict[str, Any] = {
        "models": {task: layers[task].minimum.reshape(-1) for task in ALPHA},
        "blocks": {
            task: torch.kron(layers[task].factors.outputs, layers[task].factors.inputs) for task in ALPHA
        },
    }
    merged = run("mats", inputs, objective="block", weights=ALPHA, tolerance=1e-12)
    assert_close(merged.reshape(Layer.shape), joint_layer(layers, with_base=False))


def test_regmean_of_least_squares(run: Run) -> None:
    """Each task is a regression: the merged weights are those of the regression on all data."""
    generator = torch.Generator().manual_seed(0)
    data = {task: torch.randn(7, 3, generator=generator, dtype=torch.float64) for task in ALPHA}
    targets = {task: torch.randn(7, 4, generator=generator, dtype=torch.float64) for task in ALPHA}

    def loss(task: str, weight: Tensor) -> Tensor:
        return (data[task] @ weight.T - targets[task]).square().sum()

    inputs: dict[str, Any] = {
        "models": {task: minimize_layer(lambda weight, its=task: loss(its, weight)) for task in ALPHA},
        "grams": {task: Factors(rows.T @ rows / len(rows)) for task, rows in data.items()},
    }
    expected = minimize_layer(lambda weight: sum(ALPHA[task] * loss(task, weight) for task in ALPHA))
    assert_close(run("regmean", inputs, weights=ALPHA, off_diagonal_scaling=1.0), expected)
    assert_close(run("mats", inputs, objective="regmean", weights=ALPHA, tolerance=1e-12), expected)
