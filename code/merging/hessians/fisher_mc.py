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

if TYPE_CHECKING:  # looked up while graphs are built, where torch must not be imported
    from torch import Tensor

STATISTIC: Final = "diagonal"
NEEDS_LABELS = False
SAMPLES_LABELS = True


def cotangents(
    scores: Tensor, labels: Tensor | None, *, examples: Sequence[int], num_samples: int, seed: int
) -> Iterator[Tensor]:
    """Yield one gradient for each draw; see :class:`merging.hessians.Estimator`."""
    where = _categorical.counted(scores, labels)
    for draw in range(num_samples):
        drawn = _draw(scores, where, [(seed, example, draw) for example in examples])
        yield _categorical.score_gradient(scores, drawn, where) * num_samples**-0.5


def _draw(scores: Tensor, where: Tensor, keys: Sequence[tuple[int, int, int]]) -> Tensor:
    """Draw labels, (B,) or (B, R), by inverting the distribution function.

    Each example has a generator of its own, and its j-th counted position takes the j-th number, so that
    neither other examples nor padding matter.
    """
    import numpy as np
    import torch

    uniforms = torch.zeros(where.shape, dtype=torch.float64)
    for row, mask, key in zip(uniforms.unsqueeze(-1), where.cpu().unsqueeze(-1), keys, strict=True):
        row[mask] = torch.from_numpy(np.random.default_rng(key).random(int(mask.sum())))
    distribution = _categorical.probabilities(scores).double().cumsum(-1)
    labels = (distribution <= uniforms.to(scores.device).unsqueeze(-1)).sum(-1)
    return labels.clamp(max=scores.shape[-1] - 1)  # rounded sums of probabilities need not reach 1
