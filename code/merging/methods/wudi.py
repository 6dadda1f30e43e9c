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

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from merging.errors import OptionError
from merging.methods import _svd
from merging.methods._tasks import check_finite

if TYPE_CHECKING:
    import torch
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


def working_bytes(shape: tuple[int, ...], num_models: int) -> int:
    """Copies in float64, the optimiser's state, and what is seen of the inputs."""
    if not _svd.has_matrix(shape, parity=False):
        return 0
    columns = math.prod(shape[1:])
    return 64 * shape[0] * columns + 12 * columns**2


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
    if _svd.has_matrix(tuple(base.shape), parity=options.parity):
        matrices = [_svd.to_matrix(vector, transposed=parameter.transposed) for vector in vectors]
        merged, reduction = descend(matrices, options, base.dtype)
        combined = _svd.from_matrix(merged, base, transposed=parameter.transposed)
        if report is not None:
            report("gradient_reduction", reduction)
    else:
        combined = _svd.mean(vectors)
    return base.add(combined, alpha=options.scaling_factor)


def descend(vectors: Sequence[Tensor], options: Options, dtype: torch.dtype) -> tuple[Tensor, float]:
    """m after the steps, and the norm of its gradient divided by that at the start.

    What has been added to the start is kept apart from it: next to it, small steps would be rounded away.

    Args:
        vectors: tau_t as matrices (o, i).
        options: learning rate, steps.
        dtype: of the steps.
    """
    import torch

    start = _svd.mean(vectors).mul_(len(vectors)).double()
    seen = start.new_zeros(start.shape[1], start.shape[1])
    pull = torch.zeros_like(
        start
    )  # start A - B, which is the sum of (start - tau_t) tau_t^T tau_t / |tau_t|^2
    for vector in (its.double() for its in vectors):
        norm = vector.norm()
        if norm > 0:
            inputs = vector / norm
            seen.addmm_(inputs.T, inputs)
            if len(start) > len(seen):  # nothing as large as the square of a vocabulary
                pull.addmm_(start - vector, inputs.T @ inputs)
            else:
                pull.addmm_((start - vector) @ inputs.T, inputs)
    seen, pull = seen.to(dtype), pull.to(dtype)
    added = torch.zeros_like(pull)
    adam = torch.optim.Adam([added], lr=options.learning_rate)
    for _ in range(options.iterations):
        added.grad = torch.addmm(pull, added, seen).mul_(2)
        adam.step()
    first, last = float(pull.norm()), float(torch.addmm(pull, added, seen).norm())
    return start + added, last / first if first > 0 else 1.0
