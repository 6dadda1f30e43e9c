"""Simple and weighted average ("linear"; uniform: model soups, Wortsman et al., ICML 2022, arXiv:2203.05482).

    theta = sum_t w_t theta_t / sum_t w_t

The base model takes no part. Special cases, tested: no weights is the mean; one task returns its model.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from merging.errors import OptionError
from merging.methods._tasks import check_finite, per_task

if TYPE_CHECKING:
    from torch import Tensor

    from merging.methods._seam import Granularity
    from merging.methods._weights import Watch


@dataclass(frozen=True, kw_only=True)
class Options:
    """What ``merge`` can be told."""

    weights: Mapping[str, float] | None = None
    """w_t by task; by default all alike."""
    normalize: bool = True
    """Divide by the sum of the weights; without it, given weights are used as they are."""

    def __post_init__(self) -> None:
        if self.weights is None:
            return
        check_finite("average: weights", self.weights)
        if self.normalize and abs(sum(self.weights.values())) < 1e-12:
            raise OptionError(
                f"average: weights must not sum to 0, got {dict(self.weights)}. "
                "Change a weight, or pass normalize=False for the plain sum."
            )


def granularity(options: Options) -> Granularity:
    """Elementwise."""
    return "elements"


def merge(models: Mapping[str, Tensor], options: Options, watch: Watch | None = None) -> Tensor:
    """Merge one parameter, elementwise.

    Args:
        models: theta_t by task, of one shape, any rank.
        options: weights.
        watch: is told the weights of each task's model.

    Returns:
        The merged parameter. Inputs are not modified.
    """
    weights = per_task("average: weights", 1.0 if options.weights is None else options.weights, models)
    divisor = sum(weights.values()) if options.normalize or options.weights is None else 1.0
    merged: Tensor | None = None
    for task, weight in weights.items():
        share = weight / divisor
        merged = models[task] * share if merged is None else merged.add_(models[task], alpha=share)
        if watch is not None:
            watch(task, share)
    assert merged is not None, "there is at least one model"
    return merged
