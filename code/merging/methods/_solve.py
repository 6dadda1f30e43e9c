"""Linear systems with a symmetric positive semi-definite operator."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from merging.errors import CheckpointError

if TYPE_CHECKING:
    from torch import Tensor

    from merging.methods._seam import Report

RIDGES = (0.0, 1e-8, 1e-6, 1e-4, 1e-2, 1.0)
"""Tried one after another, in units of the mean of the diagonal."""
AMPLIFIED = 100
"""By how much a solution may amplify the rounding of the stored numbers, about."""
STALLED = 3
"""So many steps in a row that change nothing but the last bit end a run."""


def precision_of(matrix: Tensor) -> float:
    """Relative rounding error of sums over data: that of float32 also where they were stored with less."""
    import torch

    return torch.finfo(torch.float64 if matrix.dtype == torch.float64 else torch.float32).eps


def cholesky_solve(matrix: Tensor, right: Tensor, *, precision: float) -> tuple[Tensor, float]:
    """Solve ``(M + rho I) x = right`` with the smallest ridge rho of ``RIDGES`` that makes M regular enough.

    It is unless some unknown nearly is a combination of the ones before it, so nearly that what is left of it
    drowns in the rounding of the numbers that M was made of. Unknowns whose row and column are 0 are taken
    out: x is 0.

    Args:
        matrix: M, (n, n), float64; is overwritten.
        right: (n, m), float64; 0 in the rows where M is 0.
        precision: relative rounding error of the numbers that M was made of.

    Returns:
        x, and rho in units of the mean of the diagonal.

    Raises:
        CheckpointError: M has a negative eigenvalue far beyond rounding.
    """
    import torch

    diagonal = matrix.diagonal()
    dead = diagonal == 0
    mean = float(diagonal.sum()) / max(int((~dead).sum()), 1)
    diagonal[dead] = mean if mean > 0 else 1.0
    size = diagonal.clone()
    for ridge in RIDGES:
        diagonal.copy_(size + ridge * mean)
        factor, failed = torch.linalg.cholesky_ex(matrix)
        if not failed and bool((factor.diagonal().square() > AMPLIFIED * precision * size).all()):
            return torch.cholesky_solve(right, factor), ridge
    raise CheckpointError(
        "a sum of curvatures is not positive semi-definite: Cholesky's method fails even with its mean "
        "diagonal added. Second moments never are like this; estimate them again."
    )


@dataclass(frozen=True)
class Solution:
    """What a run of conjugate gradients found."""

    x: Tensor
    iterations: int
    initial_residual: float
    """L2 norm of the right side; the start is 0."""
    final_residual: float
    """L2 norm of right - C x, computed afresh."""
    exit: str
    """converged; iterations (their number was used up); stalled (steps only change the last bit); curvature
    (a direction without any, from rounding or because the operator is indefinite)."""

    def tell(self, report: Report | None, *, unit: float) -> None:
        """Report everything but x, residuals in a unit."""
        if report is None:
            return
        report("iterations", self.iterations)
        report("initial_residual", self.initial_residual / unit if unit > 0 else 0.0)
        report("final_residual", self.final_residual / unit if unit > 0 else 0.0)
        report("exit", self.exit)


def conjugate_gradients(
    operator: Callable[[Tensor], Tensor],
    right: Tensor,
    *,
    target: float,
    max_iterations: int,
    precondition: Callable[[Tensor], Tensor] | None = None,
    average_last: int = 0,
) -> Solution:
    """Solve ``C x = right`` from x = 0, in the dtype of ``right`` with scalars in float64.

    Started elsewhere, solve for the correction, whose right side is the residual: that is the same run of
    iterates, and rounds less.

    Args:
        operator: C, symmetric; gives a new tensor.
        right: any shape.
        target: ends the run once the L2 norm of the residual is not above it.
        max_iterations: ends the run, too.
        precondition: an approximate inverse of C, symmetric and positive definite.
        average_last: the result is the mean over so many last ones of ``max_iterations`` iterates; 0: the
            last iterate. A run that ends before all of them gives its last one.
    """
    import torch

    initial = norm(right)
    if initial <= target:
        return Solution(torch.zeros_like(right), 0, initial, initial, "converged")
    right, target = right / initial, target / initial  # squares of small numbers would be 0
    x, residual, size = torch.zeros_like(right), right.clone(), 1.0
    mean = torch.zeros_like(right) if average_last else None
    smallest = torch.finfo(right.dtype).eps
    direction = residual.clone() if precondition is None else precondition(residual)
    rho = size**2 if precondition is None else _dot(residual, direction)
    iterations = stalled = 0
    exit = "iterations"
    while size > target and iterations < max_iterations:
        product = operator(direction)
        curvature, length = _dot(direction, product), norm(direction)
        if not curvature > smallest * length * norm(product):
            exit = "curvature"
            break
        step = rho / curvature
        x.add_(direction, alpha=step)
        residual.sub_(product, alpha=step)
        iterations += 1
        if mean is not None and iterations > max_iterations - average_last:
            mean.add_(x, alpha=1 / average_last)
        size = norm(residual)
        stalled = stalled + 1 if step * length <= smallest * norm(x) else 0
        if stalled == STALLED:
            exit = "stalled"
            break
        towards = residual if precondition is None else precondition(residual)
        previous, rho = rho, size**2 if precondition is None else _dot(residual, towards)
        direction.mul_(rho / previous).add_(towards)
    if size <= target:
        exit = "converged"
    if mean is not None and iterations == max_iterations:
        x = mean
    final = norm(right - operator(x)) * initial
    return Solution(x.mul_(initial), iterations, initial, final, exit)


def _dot(left: Tensor, right: Tensor) -> float:
    """Inner product with a sum in float64."""
    import torch

    return float((left * right).sum(dtype=torch.float64))


def norm(tensor: Tensor) -> float:
    """L2 norm with a sum in float64."""
    import torch

    return float(torch.linalg.vector_norm(tensor, dtype=torch.float64))
