"""Angles between whole parameters, from inner products that are summed piece by piece.

A method on the sphere needs no more of its tensors than their Gram matrix; its result is a linear combination
of them, which every piece can take by itself.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from merging.errors import OptionError
from merging.methods._seam import Piece, Pieces
from merging.methods._tasks import check_finite, values

if TYPE_CHECKING:
    from torch import Tensor

Gram = Sequence[Sequence[float]]
"""Inner products <x_i, x_j>; symmetric."""

_SMALLEST_TOTAL = 1e-12
_SMALLEST_SQUARE = 1e-25  # below, float32 squares lose digits to underflow


def gram(pieces: Pieces, vectors: Callable[[Piece], Sequence[Tensor]], *, exact: bool = False) -> Gram:
    """Inner products of a parameter's vectors, which ``vectors`` gives piece by piece.

    Each piece is summed in the dtype of its tensors, with a relative error of about 1e-7 in float32, unless
    that under- or overflows; ``exact`` sums in float64. Pieces are added without error, in any order of work.
    """
    found = pieces.map(lambda piece: _products([vector.reshape(-1) for vector in vectors(piece)], exact))
    totals = [math.fsum(products) for products in zip(*found, strict=True)]
    size = math.isqrt(2 * len(totals))
    full = [[0.0] * size for _ in range(size)]
    for (row, column), total in zip(_pairs(size), totals, strict=True):
        full[row][column] = full[column][row] = total
    return full


def differences(piece: Piece) -> list[Tensor]:
    """Task vectors theta_t - theta_0 of a piece, sorted by task."""
    base, models = piece["base"], piece["models"]
    return [models[task] - base for task in sorted(models)]


def tensors(piece: Piece) -> list[Tensor]:
    """Models of a piece, sorted by task."""
    models = piece["models"]
    return [models[task] for task in sorted(models)]


def norms(products: Gram) -> list[float]:
    """Euclidean norms."""
    return [math.sqrt(products[index][index]) for index in range(len(products))]


def length(factors: Sequence[float], products: Gram) -> float:
    """Norm of sum_i factor_i x_i; 0 where rounding makes its square negative."""
    terms = (
        one * two * products[row][column]
        for row, one in enumerate(factors)
        for column, two in enumerate(factors)
    )
    return math.sqrt(max(math.fsum(terms), 0.0))


def check_weights(name: str, weights: float | Mapping[str, float], *, low: float = -math.inf) -> None:
    """Refuse weights that cannot be normalised, or are below ``low``."""
    check_finite(name, weights, low=low)
    if abs(sum(values(weights))) < _SMALLEST_TOTAL:
        given = dict(weights) if isinstance(weights, Mapping) else weights
        raise OptionError(f"{name} must not sum to 0, got {given}. Change a weight.")


def spherical(t: float, cosine: Tensor, is_linear: Tensor) -> tuple[Tensor, Tensor]:
    """Weights of both ends at ``t`` on the arc between them: sin((1 - t) a) / sin a and sin(t a) / sin a.

    Args:
        t: 0 is the first end, 1 the second.
        cosine: of the angle a, any shape; float64, since the angle is sensitive to it.
        is_linear: where to take 1 - t and t instead, because sin a is (nearly) 0.
    """
    import torch

    angle = cosine.clamp(-1.0, 1.0).arccos()
    sine = angle.sin().masked_fill(is_linear, 1.0)  # chosen before dividing: no 0 / 0
    first = torch.where(is_linear, 1.0 - t, ((1.0 - t) * angle).sin() / sine)
    second = torch.where(is_linear, t, (t * angle).sin() / sine)
    return first, second


def combine(vectors: Mapping[str, Tensor], weights: Mapping[str, float]) -> Tensor:
    """sum_t weight_t x_t as a new tensor, in the order of ``weights``; a weight of 0 adds nothing."""
    (first, weight), *others = weights.items()
    total = vectors[first] * weight
    for task, weight in others:
        if weight:
            total.add_(vectors[task], alpha=weight)
    return total


def _pairs(size: int) -> list[tuple[int, int]]:
    return [(row, column) for row in range(size) for column in range(row + 1)]


def _products(vectors: Sequence[Tensor], exact: bool) -> list[float]:
    """Inner products of all pairs, the lower triangle row by row."""
    import torch

    pairs = _pairs(len(vectors))
    length = 2**14 if exact else 2**17  # stays in the cache; keeps the error of a float32 sum small
    blocks = []
    for start in range(0, max(vectors[0].numel(), 1), length):
        parts = [vector[start : start + length] for vector in vectors]
        if exact:
            parts = [part.double() for part in parts]
        blocks.append(torch.stack([torch.dot(parts[row], parts[column]) for row, column in pairs]))
    found: list[float] = torch.stack(blocks).sum(0, dtype=torch.float64).tolist()
    squares = [found[index] for index, (row, column) in enumerate(pairs) if row == column]
    if not exact and any(0 < square < _SMALLEST_SQUARE or not math.isfinite(square) for square in squares):
        return _products(vectors, exact=True)
    return found
