"""Weighted mean on the sphere of models, or of their differences to a base (multi-SLERP, as in mergekit).

    theta = (sum_t w_t |x_t|) m (+ theta_0)          m = s / |s|          s = sum_t w_t x_t / (|x_t| + eps)

x_t is theta_t, or theta_t - theta_0 with ``relative_to_base``; norms are of the whole parameter, flattened:
per parameter, not per model. mergekit also walks from m along sum_t w_t (u_t - <u_t, m> m), which is the part
of s orthogonal to s, zero but for rounding; so it is left out.

Where |s| is below 1e-8 there is no direction: two models, and parameters of one element, are then averaged
with the weights; for more, the merge is refused.

Special cases, tested: one model returns itself; models of one norm keep it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from merging.errors import OptionError
from merging.methods._geometry import Gram, check_weights, combine, differences, gram, length, norms, tensors
from merging.methods._seam import Granularity, Parameter, Pieces
from merging.methods._tasks import check_finite, per_task

if TYPE_CHECKING:
    from torch import Tensor

    from merging.methods._weights import Watch

NUM_MODELS = (1, None)

_NO_DIRECTION = 1e-8


@dataclass(frozen=True, kw_only=True)
class Options:
    """What ``merge`` can be told."""

    weights: float | Mapping[str, float] = 1.0
    """w_t, one value or one by task."""
    normalize: bool = True
    """Divide the weights by their sum; without it, they also scale the result."""
    relative_to_base: bool = False
    """Merge the differences to the base, and add it; needs ``base``."""
    eps: float = 1e-8
    """What is added to each norm, >= 0; large values let short vectors say less about the direction."""

    def __post_init__(self) -> None:
        check_finite("multislerp: weights", self.weights)
        check_finite("multislerp: eps", self.eps, low=0.0)
        if self.normalize:
            check_weights("multislerp: weights", self.weights)


def granularity(options: Options) -> Granularity:
    """Pieces of a parameter may be merged one after another."""
    return "elements"


def required(options: Options) -> tuple[str, ...]:
    """The base, for differences to it."""
    return ("base",) if options.relative_to_base else ()


def measure(pieces: Pieces, options: Options) -> Gram:
    """Take the Gram matrix of the models, or of their differences to the base, sorted by task."""
    return gram(pieces, differences if options.relative_to_base else tensors, exact=True)


def merge(
    models: Mapping[str, Tensor],
    options: Options,
    measure: Gram,
    parameter: Parameter,
    base: Tensor | None = None,
    watch: Watch | None = None,
) -> Tensor:
    """Merge a piece of a parameter, elementwise.

    Args:
        models: theta_t by task.
        options: weights, what is merged.
        measure: inner products of the whole models, or of their differences, sorted by task.
        parameter: its name, and whether it has more than one element.
        base: theta_0, where differences to it are merged.
        watch: is told the weights of each task's model or difference.

    Returns:
        The merged piece. Inputs are not modified.

    Raises:
        OptionError: three or more models whose directions cancel.
    """
    weights = per_task("multislerp: weights", options.weights, models)
    if options.normalize:
        total = sum(weights.values())
        weights = {task: weight / total for task, weight in weights.items()}
    factors = dict(zip(weights, _factors(list(weights.values()), measure, parameter, options), strict=True))
    if watch is not None:
        for task, factor in factors.items():
            watch(task, factor)
    if base is None or not options.relative_to_base:
        return combine(models, factors)
    return combine({task: model - base for task, model in models.items()}, factors).add_(base)


def _factors(weights: list[float], products: Gram, parameter: Parameter, options: Options) -> list[float]:
    """By what each vector is multiplied."""
    lengths = norms(products)
    shares = [
        weight / (norm + options.eps) if norm else 0.0 for weight, norm in zip(weights, lengths, strict=True)
    ]
    size = length(shares, products)
    if size >= _NO_DIRECTION:
        scale = sum(weight * norm for weight, norm in zip(weights, lengths, strict=True)) / size
        return [scale * share for share in shares]
    if len(weights) <= 2 or not any(lengths) or math.prod(parameter.shape) == 1:
        return weights
    raise OptionError(
        f"multislerp: the models' directions cancel in {parameter.name!r}, so there is no mean direction. "
        "Change the weights, set relative_to_base, leave the parameter out with exclude, or use 'average'."
    )
