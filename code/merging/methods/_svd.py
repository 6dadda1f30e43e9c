"""Singular values of task vectors, for the methods that take a parameter as a whole matrix; in float64.

Both come from the eigenvalues of the smaller of M M^T and M^T M, several times faster than a decomposition of
M. Squaring costs half of the digits of small singular values: of 1e-6 of the largest, ten are left of
sixteen, and smaller ones are not kept, because weights in single precision say nothing about them.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


def has_matrix(shape: tuple[int, ...], *, parity: bool) -> bool:
    """Whether a parameter is taken as a matrix; vectors, scalars and empty ones are averaged.

    Args:
        shape: of the parameter.
        parity: take nothing but matrices, and average the weights of convolutions.
    """
    return 0 not in shape and (len(shape) == 2 or (len(shape) > 2 and not parity))


def working_bytes(shape: tuple[int, ...], *, element: int, square: int) -> int:
    """What decompositions of a parameter hold in float64.

    Args:
        shape: of the parameter.
        element: bytes for each element of a matrix; measured.
        square: bytes for each element of the square of its shorter side; measured.
    """
    if not has_matrix(shape, parity=False):
        return 0
    rows, columns = shape[0], math.prod(shape[1:])
    return element * rows * columns + square * min(rows, columns) ** 2


def to_matrix(tensor: Tensor, *, transposed: bool = False) -> Tensor:
    """(outputs, everything else); a view where possible.

    Args:
        tensor: two dimensions or more, (outputs, ...).
        transposed: it is stored as (inputs, outputs).
    """
    return tensor.T if transposed else tensor.flatten(1)


def from_matrix(matrix: Tensor, like: Tensor, *, transposed: bool = False) -> Tensor:
    """The reverse of ``to_matrix``, in shape and dtype of ``like``."""
    return (matrix.T if transposed else matrix).reshape(like.shape).to(like.dtype)


def mean(tensors: Iterable[Tensor]) -> Tensor:
    """Mean of at least one tensor, a new one."""
    first, *others = tensors
    total = first.clone()
    for tensor in others:
        total.add_(tensor)
    return total.div_(1 + len(others))


def decompose(matrix: Tensor, *, first: int | None = None) -> tuple[Tensor, Tensor, Tensor]:
    """Singular value decomposition, without what is zero in single precision.

    Args:
        matrix: (o, i).
        first: how many directions are wanted at most; by default all.

    Returns:
        Left vectors (o, r), singular values (r,), descending, right vectors (r, i), float64; r is the rank,
        or ``first`` if that is smaller.
    """
    import torch

    if matrix.shape[0] > matrix.shape[1]:
        left, values, right = decompose(matrix.mT, first=first)
        return right.mT, values, left.mT
    matrix = matrix.double()
    squares, vectors = torch.linalg.eigh(matrix @ matrix.mT)
    values = squares.flip(0).clamp(min=0).sqrt()
    negligible = values[:1] * max(matrix.shape) * torch.finfo(torch.float32).eps
    rank = int((values[:first] > negligible).sum())
    left, values = vectors.flip(1)[:, :rank], values[:rank]
    return left, values, (left.mT @ matrix) / values[:, None]


def polar(matrix: Tensor) -> Tensor:
    """The nearest matrix with orthonormal rows or columns: U V^T of U S V^T; float64.

    Directions in which the matrix is zero stay zero: which ones to put there would be a matter of chance.
    """
    left, _, right = decompose(matrix)
    return left @ right
