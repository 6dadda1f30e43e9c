"""WUDI (Cheng et al., ICML 2025, arXiv:2503.08099): a merged task vector that disturbs no layer.

    m = argmin sum_t ||(m - tau_t) tau_t^T||_F^2 / ||tau_t||_F^2          by Adam, from m = sum_t tau_t
    theta = theta_0 + lambda m

The rows of tau_t stand for the inputs that layer saw in task t, so no data are needed. With A = sum_t tau_t^T
tau_t / ||tau_t||^2 and B = sum_t tau_t tau_t^T tau_t / ||tau_t||^2 the gradient is 2 (m A - B): one product a
step, however many tasks. An element moves by at most about ``learning_rate`` a step.

Per parameter, for matrices; a convolution's weight is (outputs, everything else). Of vectors and scalars the
mean of the task vectors is taken instead. Special case, tested: one task with lambda = 1 is its model.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from merging.errors import OptionError
from merging.methods import _svd
from merging.methods._tasks import check_finite

if TYPE_CHECKING:
    from torch import Tensor

    from merging.methods._seam import Parameter, Report


@dataclass(frozen=True, kw_only=True)
class Options:
    """What ``merge`` can be told."""

    scaling_factor: float = 1.0
    """lambda."""
    learning_rate: float = 1e-5
    """Of Adam, > 0."""
    iterations: int = 300
    """Steps of Adam, >= 0."""
    parity: bool = False
    """Average the weights of convolutions, and take matrices as (outputs, inputs), as FusionBench does."""

    def __post_init__(self) -> None:
        check_finite("wudi: scaling_factor", self.scaling_factor)
        check_finite("wudi: learning_rate", self.learning_rate)
        if self.learning_rate <= 0:
            raise OptionError(f"wudi: learning_rate must be > 0, got {self.learning_rate}.")
        if self.iterations < 0:
            raise OptionError(f"wudi: iterations must be >= 0, got {self.iterations}.")


def needs_layout(options: Options) -> bool:
    """The rows of a matrix must be those of its outputs."""
    return not options.parity


def merge(
    base: Tensor,
    models: Mapping[str, Tensor],
    parameter: Parameter,
    options: Options,
    report: Report | None = None,
) -> Tensor:
    """Merge one parameter as a whole.

    Args:
        base: theta_0, of any rank.
        models: theta_t by task, of the same shape.
        parameter: whether it is stored transposed.
        options: scaling factor, learning rate, steps.
        report: is told of matrices, by what the steps have multiplied the norm of the gradient.

    Returns:
        The merged parameter. Inputs are not modified.
    """
    vectors = [models[task] - base for task in sorted(models)]
    if _svd.has_matrix(tuple(base.shape), parity=options.parity) and len(vectors) > 1:
        oriented = [its.T if parameter.transposed else its.flatten(1) for its in vectors]
        merged, reduction = descend(oriented, options)
        combined = _svd.from_matrix(merged, base, transposed=parameter.transposed)
        if report is not None:
            report("gradient_reduction", reduction)
    else:
        combined = _svd.mean(vectors)
    return base.add(combined, alpha=options.scaling_factor)


def descend(vectors: Sequence[Tensor], options: Options) -> tuple[Tensor, float]:
    """m after the steps, and the norm of its gradient divided by that at the start.

    Args:
        vectors: tau_t as matrices (o, i); the work is done in their dtype.
        options: learning rate, steps.
    """
    import torch

    start = _svd.mean(vectors).mul_(len(vectors))
    seen = start.new_zeros(start.shape[1], start.shape[1])
    target = torch.zeros_like(start)
    for vector in vectors:
        norm = float(vector.double().norm())
        if norm > 0:
            inputs = vector / norm
            seen.addmm_(inputs.T, inputs)
            target.addmm_(vector @ inputs.T, inputs)

    def gradient() -> Tensor:
        return (merged @ seen).sub_(target).mul_(2)

    merged = start.clone()
    first = float(gradient().norm())
    adam = torch.optim.Adam([merged], lr=options.learning_rate)
    for _ in range(options.iterations):
        merged.grad = gradient()
        adam.step()
    last = float(gradient().norm())
    return merged.detach(), last / first if first > 0 else 1.0
