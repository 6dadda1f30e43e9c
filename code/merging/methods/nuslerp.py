"""Spherical linear interpolation between two models or their differences to a base (NuSLERP, as in mergekit).

    theta = [sin((1 - t) a) x_1 + sin(t a) x_2] / sin a (+ theta_0)          t = w_2 / (w_1 + w_2)

x_t is theta_t, or theta_t - theta_0 with ``relative_to_base``; a is the angle between x_1 and x_2: of the
whole parameter, or one for each slice along the last or the first axis of the tensor as it is stored. Per
parameter or slice, never per model. Where sin a is below 1e-8, or the two are opposite up to the rounding of
float32, the interpolation is linear: there is no shortest arc. Norms below 1e-7 count as 1e-7.

Special cases, tested: a weight of 0 returns the other model; weights that cancel give t = 1/2; slices of a
vector are the vector.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from merging.methods._geometry import differences, gram, spherical, tensors
from merging.methods._seam import Granularity, Pieces
from merging.methods._tasks import check_finite, per_task

if TYPE_CHECKING:
    from torch import Tensor

    from merging.methods._weights import Watch

NUM_MODELS = (2, 2)

_SMALLEST_NORM = 1e-7
_SMALLEST_SINE = 1e-8
_SMALLEST_SUM = 1e-6
_OPPOSITE = 1e-6  # 1 + cosine, below which sin a is nothing but rounding; slices of one element are parallel


@dataclass(frozen=True, kw_only=True)
class Options:
    """What ``merge`` can be told."""

    weights: float | Mapping[str, float] = 1.0
    """w_t by task; alike by default. Only their ratio matters."""
    relative_to_base: bool = False
    """Interpolate the differences to the base, and add it; needs ``base``."""
    axis: Literal["all", "last", "first"] = "all"
    """all: one angle for the whole parameter; last: one for each row of a linear layer; first: one for each
    column, which mergekit calls ``nuslerp_row_wise``."""

    def __post_init__(self) -> None:
        check_finite("nuslerp: weights", self.weights)


def granularity(options: Options) -> Granularity:
    """Pieces may be merged one after another; of whole rows, where a row or column has an angle."""
    return "elements" if options.axis == "all" else "rows"


def required(options: Options) -> tuple[str, ...]:
    """The base, for differences to it."""
    return ("base",) if options.relative_to_base else ()


def measure(pieces: Pieces, options: Options) -> Tensor | None:
    """Take the cosine of the parameter, or those of its columns; None where each row has its own.

    Returns:
        A scalar, or the shape of the parameter with 1 for its first axis; float64.
    """
    import torch

    vectors = differences if options.relative_to_base else tensors
    if options.axis == "last":
        return None
    if options.axis == "all":
        products = torch.tensor(gram(pieces, vectors), dtype=torch.float64)
        return _cosine(products[0, 0], products[1, 1], products[0, 1])
    columns = pieces.map(lambda piece: _products(*vectors(piece), axis=0))
    square_one, square_two, inner = torch.stack(columns).sum(0)
    return _cosine(square_one, square_two, inner)


def merge(
    models: Mapping[str, Tensor],
    options: Options,
    measure: Tensor | None,
    base: Tensor | None = None,
    watch: Watch | None = None,
) -> Tensor:
    """Merge a piece of a parameter.

    Args:
        models: theta_1 and theta_2 by task; of any shape, whole rows unless there is one angle for all.
        options: weights, what is interpolated, slices.
        measure: cosine of the parameter, or of its columns; None for an angle for each row.
        base: theta_0, where differences to it are interpolated.
        watch: is told the weights of each task's model or difference.

    Returns:
        The merged piece. Inputs are not modified.
    """
    one, two = (models[task] for task in sorted(models))
    if options.relative_to_base and base is not None:
        one, two = one - base, two - base
    cosine = measure
    if cosine is None:
        square_one, square_two, inner = _products(one, two, axis=-1)
        cosine = _cosine(square_one, square_two, inner)
    sine = (1.0 - cosine * cosine).clamp(min=0.0).sqrt()
    is_linear = (sine < _SMALLEST_SINE) | (1.0 + cosine < _OPPOSITE)
    first, second = spherical(_t(options, models), cosine, is_linear)
    if watch is not None:
        for task, weights in zip(sorted(models), (first, second), strict=True):
            watch(task, weights)
    if first.dim():
        merged = (one * first.to(one)).addcmul_(two, second.to(two))
    else:
        merged = (one * float(first)).add_(two, alpha=float(second))
    return merged.add_(base) if options.relative_to_base and base is not None else merged


def _t(options: Options, tasks: Collection[str]) -> float:
    """Share of the second model."""
    one, two = per_task("nuslerp: weights", options.weights, tasks).values()
    total = one + two
    return 0.5 if abs(total) < _SMALLEST_SUM else two / total


def _products(one: Tensor, two: Tensor, *, axis: int) -> Tensor:
    """|x_1|^2, |x_2|^2 and <x_1, x_2> of all slices along an axis, stacked; float64."""
    import torch

    pairs = ((one, one), (two, two), (one, two))
    return torch.stack([(x * y).sum(axis, keepdim=True) for x, y in pairs]).double()


def _cosine(square_one: Tensor, square_two: Tensor, inner: Tensor) -> Tensor:
    """Of the angles; a norm that is nearly 0 brings it to 0."""
    one, two = (square.sqrt().clamp(min=_SMALLEST_NORM) for square in (square_one, square_two))
    return (inner / one / two).clamp(-1.0, 1.0)
