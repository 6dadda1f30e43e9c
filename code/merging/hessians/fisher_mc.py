"""Diagonal of the true Fisher, with labels drawn from the model.

    F = mean over examples of E_{y ~ p(y | x)} (d log p(y | x) / d theta)^2

The expectation is a mean over ``num_samples`` draws; the mean over examples does most of the averaging, so
one draw is usual. Each position of an example is drawn by itself; scores of independent draws have mean zero,
so that the square of their sum is in expectation the sum of the positions' Fishers.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Final

from merging.hessians import _categorical
from merging.hessians._distributions import Distribution

if TYPE_CHECKING:  # looked up while graphs are built, where torch must not be imported
    from torch import Tensor

STATISTIC: Final = "diagonal"
NEEDS_LABELS = False
SAMPLES_LABELS = True


def cotangents(
    scores: Tensor,
    labels: Tensor | None,
    *,
    examples: Sequence[int],
    num_samples: int,
    seed: int,
    distribution: Distribution = _categorical,
) -> Iterator[Tensor]:
    """Yield one gradient for each draw; see :class:`merging.hessians.Estimator`."""
    where = distribution.counted(scores, labels)
    for draw in range(num_samples):
        drawn = distribution.draw(scores, where, [(seed, example, draw) for example in examples])
        gradient = distribution.score_gradient(scores, drawn, where)
        yield gradient if num_samples == 1 else gradient * num_samples**-0.5
