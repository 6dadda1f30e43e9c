"""Approximate inverses of sums of curvatures, for conjugate gradients."""

from __future__ import annotations

import functools
from collections.abc import Callable, Collection, Sequence
from typing import TYPE_CHECKING

from merging.errors import CheckpointError
from merging.methods._linear import Curvature, Diagonal, Kronecker

if TYPE_CHECKING:
    from torch import Tensor

LARGEST_RIDGE = 1e6
"""In units of the diagonal: more than a matrix with a diagonal around 1 can need."""


def jacobi(operators: Collection[Curvature], delta: float = 0.0) -> Callable[[Tensor], Tensor]:
    """Divide by the diagonal of the sum of one operator or more and of delta I; 0 where that is 0.

    Unless all are diagonal, nothing is divided by less than the rounding of float32 in units of the largest
    element: what gradients leave where they should be 0, as for biases of keys, says nothing of a direction,
    but would scale the rounding of all others up.
    """
    import torch

    diagonal = functools.reduce(torch.add, (its.diagonal() for its in operators)) + delta
    floor = 0.0
    if diagonal.numel() and not all(isinstance(its, Diagonal) for its in operators):
        floor = torch.finfo(torch.float32).eps * float(diagonal.max())
    inverse = torch.where(diagonal > 0, 1 / diagonal.clamp(min=floor), 0.0)
    return lambda x: inverse * x


def kronecker_inverse(
    operators: Sequence[Kronecker], delta: float, like: Tensor
) -> Callable[[Tensor], Tensor]:
    """Divide by the sum of operators of weight > 0 and delta I; exact but for a ridge if they are two in all.

    The first stays as it is. The others are taken together to one, ``(sum_t w_t A_t) (x) (sum_t w_t G_t) /
    sum_t w_t`` (K-FAC's own approximation of a mean of products), and delta goes to both sides of the first
    (Martens and Grosse, ICML 2015, arXiv:1503.05671, section 6.3). Two operators have a closed form: with

        P^T A_1 P = I, P^T A_2 P = diag(a), Q^T G_1 Q = I, Q^T G_2 Q = diag(g)

    from two generalised eigenproblems, ``w_1 A_1 X G_1 + w_2 A_2 X G_2 = R`` has the solution

        X = P Y Q^T          Y_jk = (P^T R Q)_jk / (w_1 + w_2 a_j g_k)

    Args:
        operators: one or more.
        delta: >= 0.
        like: X; gives shape, dtype and device.
    """
    import torch

    first, *others = operators
    weight = sum(its.weight for its in others) if others else delta
    damping = delta / first.weight if others else 0.0
    if first.outputs is not None:
        damping **= 0.5  # for each side
    ridge = 10 * torch.finfo(like.dtype).eps  # far below the noise of regularized factors

    def side(matrix: Tensor, of_others: Sequence[Tensor | None]) -> tuple[Tensor, Tensor]:
        unit = torch.eye(len(matrix), dtype=torch.float64, device=matrix.device)
        mean = torch.zeros_like(unit) if others else unit
        for its, other in zip(others, of_others, strict=True):
            mean.add_(unit if other is None else other, alpha=its.weight / weight)
        _, root = regular(matrix + damping * unit, ridge)
        vectors, values = jointly_diagonal(root, mean)
        return torch.linalg.solve_triangular(root.T, vectors, upper=True), values

    left, a = side(first.inputs, [its.inputs for its in others])
    if first.outputs is None:
        divisor = (first.weight + weight * a[:, None]).to(like.dtype)
        left = left.to(like.dtype)
        return lambda r: left @ ((left.T @ r) / divisor)
    right, g = side(first.outputs, [its.outputs for its in others])
    divisor = (first.weight + weight * a[:, None] * g).to(like.dtype)
    left, right = left.to(like.dtype), right.to(like.dtype)
    return lambda r: left @ ((left.T @ r @ right) / divisor) @ right.T


def regular(matrix: Tensor, ridge: float) -> tuple[Tensor, Tensor]:
    """Make a second moment positive definite.

    Args:
        matrix: symmetric, not 0, float64; rounding may have given it negative eigenvalues.
        ridge: > 0, in units of the largest element of the diagonal; grows by 10 until it is enough.

    Returns:
        M, which is the matrix with the ridge, and its lower triangular root L, M = L L^T.

    Raises:
        CheckpointError: none is enough.
    """
    import torch

    unit = torch.eye(len(matrix), dtype=matrix.dtype, device=matrix.device) * matrix.diagonal().max()
    while ridge < LARGEST_RIDGE:
        whole = matrix + ridge * unit
        root, failed = torch.linalg.cholesky_ex(whole)
        if not failed:
            return whole, root
        ridge *= 10
    raise CheckpointError(
        "a factor of a curvature is not positive semi-definite, not even about, or has values that are not "
        "finite. Second moments never are like this; estimate it again."
    )


def jointly_diagonal(root: Tensor, other: Tensor) -> tuple[Tensor, Tensor]:
    """Diagonalise two symmetric matrices, L L^T and another, by one change of coordinates.

    Returns:
        E, orthogonal, and a >= 0 with E^T L^-1 M_2 L^-T E = diag(a): with P = L^-T E, P^T L L^T P = I and
        P^T M_2 P = diag(a), and the inverse of P^T is L E.
    """
    import torch

    half = torch.linalg.solve_triangular(root, other, upper=False)
    half = torch.linalg.solve_triangular(root, half.T, upper=False)
    values, vectors = torch.linalg.eigh((half + half.T) / 2)
    return vectors, values.clamp_(min=0)
