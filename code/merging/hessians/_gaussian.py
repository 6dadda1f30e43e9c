"""Real scores: each is the mean of a Gaussian of unit variance, which is what a squared error assumes.

    log p(y | z) = -(y - z)^2 / 2 + const,    d log p / d z = y - z,    Fisher of the scores = identity

With another variance sigma^2 every Fisher would be divided by sigma^2.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from merging.hessians._positions import one_at_a_time

if TYPE_CHECKING:  # estimators are looked up while graphs are built, where torch must not be imported
    from torch import Tensor


def counted(scores: Tensor, labels: Tensor | None) -> Tensor:
    """Return which positions predict something: all of them, bool, (B,) or (B, R)."""
    import torch

    return torch.ones(scores.shape[:-1], dtype=torch.bool, device=scores.device)


def draw(scores: Tensor, where: Tensor, keys: Sequence[tuple[int, int, int]]) -> Tensor:
    """Draw y = z + epsilon, shaped like ``scores``; each example has a generator of its own."""
    import numpy as np
    import torch

    noise = [torch.from_numpy(np.random.default_rng(key).standard_normal(scores.shape[1:])) for key in keys]
    return scores + torch.stack(noise).to(scores)


def score_gradient(scores: Tensor, labels: Tensor, where: Tensor) -> Tensor:
    """Return y - z, shaped like ``scores``; ``labels`` may lack the last dimension where it is 1."""
    return (labels.to(scores).reshape(scores.shape) - scores) * where.unsqueeze(-1)


def factors(scores: Tensor, where: Tensor) -> Iterator[Tensor]:
    """Yield the unit vector of each score of each position."""
    import torch

    for position in one_at_a_time(where):
        for place in range(scores.shape[-1]):
            unit = torch.zeros_like(scores)
            unit[..., place] = position.to(scores.dtype)
            yield unit
