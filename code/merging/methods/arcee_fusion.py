"""Take from the model only its salient changes (Arcee Fusion, as in mergekit).

    theta = theta_1 where importance >= threshold, else theta_0
    importance = |theta_1 - theta_0| KL(softmax(theta_1) || softmax(theta_0))          over the last axis
    threshold = median + spread (upper quartile - lower quartile)                      of the importance

The threshold is per parameter, not per model. Quantiles are elements, not interpolated: of n sorted values,
number floor(q (n - 1)). All of them are looked at, while mergekit draws a million from larger parameters; so
the result is always the same. A vector has one KL.

Special cases, tested: equal models return themselves; a change of one row takes that row.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from merging.methods._quantiles import collect, quantiles
from merging.methods._seam import Granularity, Parameter, Piece, Pieces
from merging.methods._tasks import check_finite

if TYPE_CHECKING:
    from torch import Tensor

    from merging.methods._seam import Report

NUM_MODELS = (1, 1)


@dataclass(frozen=True, kw_only=True)
class Options:
    """What ``merge`` can be told."""

    spread: float = 1.5
    """How many interquartile ranges above the median the threshold lies."""

    def __post_init__(self) -> None:
        check_finite("arcee_fusion: spread", self.spread)


@dataclass(frozen=True)
class Salience:
    """Of one parameter."""

    threshold: float
    """Smallest importance at which an element is taken from the model."""
    divergences: Tensor
    """KL of each slice along the last axis, in the order of storage; (slices,)."""


def granularity(options: Options) -> Granularity:
    """Whole rows may be merged one after another."""
    return "rows"


def measure(pieces: Pieces, options: Options) -> Salience:
    """Take all KLs, and the threshold of the importance; keeps one number for each element meanwhile."""
    import torch

    importance, divergences = collect(pieces, _importance_and_divergences)
    lower, median, upper = quantiles(pieces, importance, (0.25, 0.5, 0.75))
    return Salience(
        threshold=median + options.spread * (upper - lower),
        divergences=torch.cat(divergences),
    )


def merge(
    base: Tensor,
    models: Mapping[str, Tensor],
    options: Options,
    measure: Salience,
    parameter: Parameter,
    report: Report | None = None,
) -> Tensor:
    """Merge rows of a parameter.

    Args:
        base: theta_0.
        models: theta_1, the only model, by task.
        options: spread; its effect is in ``measure``.
        measure: threshold and KLs of the whole parameter.
        parameter: where in it these rows are.
        report: is told the threshold.

    Returns:
        The merged rows. Inputs are not modified.
    """
    (model,) = models.values()
    if report is not None:
        report("threshold", measure.threshold)
    length = base.shape[-1] if base.dim() else 1
    if not base.numel():
        return base.clone()
    first = parameter.start // length
    divergences = measure.divergences[first : first + base.numel() // length]
    is_salient = _importance(base, model, divergences) >= measure.threshold
    return model.where(is_salient.reshape(base.shape), base)


def _importance(base: Tensor, model: Tensor, divergences: Tensor) -> Tensor:
    """Importance of all elements of some rows."""
    return (model - base).abs_().reshape(len(divergences), -1).mul_(divergences.unsqueeze(-1))


def _importance_and_divergences(piece: Piece) -> tuple[Tensor, Tensor]:
    """Importance of the elements of a piece, and the KLs of its rows.

    A KL is a small difference of larger numbers where the model is close to the base: so in float64.
    """
    import torch

    base: Tensor = piece["base"]
    (model,) = piece["models"].values()
    if not base.numel():
        return base, base.reshape(-1)
    length = base.shape[-1] if base.dim() else 1
    new, old = (tensor.reshape(-1, length).double() for tensor in (model, base))
    change = new - old
    total, old_total = new.logsumexp(-1), old.logsumexp(-1)
    mean_change = torch.linalg.vecdot((new - total.unsqueeze(-1)).exp_(), change)
    divergences = (mean_change - (total - old_total)).clamp_(min=0.0).to(base)
    return _importance(base, model, divergences), divergences
