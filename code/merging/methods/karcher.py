"""Karcher mean: the mean on the sphere, by distances along it (Karcher, 1977; as in mergekit).

    theta = (sum_t w_t |theta_t|) u
    u = argmin_u sum_t w_t arccos(<u, u_t>)^2          u_t = theta_t / |theta_t|

found by u <- cos|r| u + sin|r| r / |r| with r = sum_t w_t (a_t / sin a_t) (u_t - <u, u_t> u),
cos a_t = <u, u_t>, from u = the normalised sum_t w_t u_t, until |r| < ``tol``. Norms and angles are of the
whole parameter, flattened: per parameter, not per model. The iteration needs the models' inner products only,
so it costs nothing beside one pass over the models.

A model of norm <= ``tol`` has no direction: the others' weights are renormalised for u, while it still
counts, with its norm, in the scale. A parameter of one element, whose sphere is two points, is averaged with
the weights. A model opposite to u has no shortest way to it: the merge is refused.

Special cases, tested: one model returns itself; two models of one norm meet halfway on the arc.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from merging.errors import OptionError
from merging.methods._geometry import Gram, check_weights, combine, gram, length, norms, tensors
from merging.methods._seam import Granularity, Parameter, Pieces
from merging.methods._tasks import check_finite, per_task

if TYPE_CHECKING:
    from torch import Tensor

    from merging.methods._seam import Report
    from merging.methods._weights import Watch

NUM_MODELS = (1, None)

_OPPOSITE = -1.0 + 1e-6


@dataclass(frozen=True, kw_only=True)
class Options:
    """What ``merge`` can be told."""

    weights: float | Mapping[str, float] = 1.0
    """w_t >= 0, one value or one by task; only their ratios matter."""
    max_iter: int = 10
    """Largest number of steps, >= 0."""
    tol: float = 1e-5
    """Length of a step, in radians, to stop at; also the norm up to which a model has no direction; > 0."""

    def __post_init__(self) -> None:
        check_weights("karcher: weights", self.weights, low=0.0)
        if self.max_iter < 0:
            raise OptionError(f"karcher: max_iter must be >= 0, got {self.max_iter}.")
        check_finite("karcher: tol", self.tol, low=0.0)
        if not self.tol > 0:
            raise OptionError(f"karcher: tol must be > 0, got {self.tol}.")


def granularity(options: Options) -> Granularity:
    """Pieces of a parameter may be merged one after another."""
    return "elements"


def measure(pieces: Pieces, options: Options) -> Gram:
    """Take the Gram matrix of the models, sorted by task."""
    return gram(pieces, tensors, exact=True)


def merge(
    models: Mapping[str, Tensor],
    options: Options,
    measure: Gram,
    parameter: Parameter,
    watch: Watch | None = None,
    report: Report | None = None,
) -> Tensor:
    """Merge a piece of a parameter, elementwise.

    Args:
        models: theta_t by task.
        options: weights, when to stop.
        measure: inner products of the whole models, sorted by task.
        parameter: its name, and whether it has more than one element.
        watch: is told the weights of each task's model.
        report: is told the number of steps and the length of the step at the end, in radians.

    Returns:
        The merged piece. Inputs are not modified.

    Raises:
        OptionError: a model is opposite to the mean.
    """
    weights = per_task("karcher: weights", options.weights, models)
    total = sum(weights.values())
    weights = {task: weight / total for task, weight in weights.items()}
    if math.prod(parameter.shape) != 1:
        mean = _mean(list(weights.values()), measure, parameter.name, options)
        weights = dict(zip(weights, mean.factors, strict=True))
        if report is not None:
            report("iterations", mean.num_steps)
            report("residual", mean.residual)
    if watch is not None:
        for task, weight in weights.items():
            watch(task, weight)
    return combine(models, weights)


@dataclass(frozen=True)
class _Mean:
    """Of one parameter."""

    factors: Sequence[float]
    """By what each model is multiplied."""
    num_steps: int
    residual: float
    """Length of the step at the end, in radians."""


def _mean(weights: Sequence[float], products: Gram, name: str, options: Options) -> _Mean:
    """Iterate; u is held as its coefficients in the unit vectors."""
    lengths = norms(products)
    known = [index for index, norm in enumerate(lengths) if norm > options.tol]
    scale = math.fsum(weight * norm for weight, norm in zip(weights, lengths, strict=True))
    total = math.fsum(weights[index] for index in known)
    if not total:  # all that counts is (nearly) zero
        return _Mean(factors=[0.0] * len(weights), num_steps=0, residual=0.0)
    shares = [weights[index] / total for index in known]
    cosines = [[products[row][column] / lengths[row] / lengths[column] for column in known] for row in known]
    size = length(shares, cosines)
    direction = (
        [share / size for share in shares] if size >= options.tol else [1.0] + [0.0] * (len(known) - 1)
    )
    num_steps = 0
    while True:
        step = _step(direction, shares, cosines, name, options)
        residual = length(step, cosines)
        if residual < options.tol or num_steps == options.max_iter:
            break
        along, aside = math.cos(residual), math.sin(residual) / residual
        direction = [along * old + aside * new for old, new in zip(direction, step, strict=True)]
        size = length(direction, cosines)
        direction = [coefficient / size for coefficient in direction]
        num_steps += 1
    factors = [0.0] * len(weights)
    for index, coefficient in zip(known, direction, strict=True):
        factors[index] = scale * coefficient / lengths[index]
    return _Mean(factors=factors, num_steps=num_steps, residual=residual)


def _step(
    direction: Sequence[float], shares: Sequence[float], cosines: Gram, name: str, options: Options
) -> list[float]:
    """r, as coefficients in the unit vectors."""
    step = [0.0] * len(shares)
    for index, share in enumerate(shares):
        cosine = math.fsum(one * two for one, two in zip(direction, cosines[index], strict=True))
        if share and cosine < _OPPOSITE:
            raise OptionError(
                f"karcher: a model is opposite to the mean direction in {name!r}, so the way to it is not "
                "unique. Leave that model out, exclude the parameter, or use 'average'."
            )
        angle = math.acos(min(max(cosine, -1.0), 1.0))
        if angle < options.tol:
            continue
        pull = share * angle / math.sin(angle)
        step[index] += pull
        step = [old - pull * cosine * along for old, along in zip(step, direction, strict=True)]
    return step
