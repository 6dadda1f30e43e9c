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

    found = pieces.map(_importance)
    importance = torch.cat([values for values, _ in found])
    last = len(importance) - 1
    if last < 0:
        return Salience(threshold=0.0, divergences=torch.cat([values for _, values in found]))
    lower, median, upper = (
        float(importance.kthvalue(int(quantile * last) + 1).values) for quantile in (0.25, 0.5, 0.75)
    )
    return Salience(
        threshold=median + options.spread * (upper - lower),
        divergences=torch.cat([values for _, values in found]),
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
    if not base.numel():
        return base.clone()
    length = base.shape[-1] if base.dim() else 1
    first = parameter.start // length
    divergences = measure.divergences[first : first + base.numel() // length]
    rows = (model - base).abs_().reshape(-1, length)
    is_salient = rows.mul_(divergences.unsqueeze(-1)) >= measure.threshold
    return model.where(is_salient.reshape(base.shape), base)


def _importance(piece: Piece) -> tuple[Tensor, Tensor]:
    """Importance of all elements of a piece as a vector, and the KLs.

    The KL is a small difference of larger numbers where the model is close to the base: so in float64.
    """
    import torch

    base: Tensor = piece["base"]
    (model,) = piece["models"].values()
    if not base.numel():
        return base.reshape(-1), base.reshape(-1)
    length = base.shape[-1] if base.dim() else 1
    base, model = base.reshape(-1, length), model.reshape(-1, length)
    new, old = (tensor.double().log_softmax(-1) for tensor in (model, base))
    divergences = torch.linalg.vecdot(new.exp(), new - old).clamp_(min=0.0).to(base)
    importance = (model - base).abs_().mul_(divergences.unsqueeze(-1))
    return importance.reshape(-1), divergences
