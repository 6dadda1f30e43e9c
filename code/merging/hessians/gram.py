"""Gram matrices: second moments of the inputs of linear layers, which RegMean needs.

    A = mean over positions of a a^T

One forward pass, neither labels nor gradients; padding is left out (Jin et al., ICLR 2023, arXiv:2212.09849).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Final

from merging.hessians import _categorical
from merging.hessians._distributions import Distribution

if TYPE_CHECKING:  # looked up while graphs are built, where torch must not be imported
    from torch import Tensor

STATISTIC: Final = "gram"
NEEDS_LABELS = False
SAMPLES_LABELS = False


def cotangents(
    scores: Tensor,
    labels: Tensor | None,
    *,
    examples: Sequence[int],
    num_samples: int,
    seed: int,
    distribution: Distribution = _categorical,
) -> Iterator[Tensor]:
    """Yield nothing: there is no backward pass; see :class:`merging.hessians.Estimator`."""
    yield from ()
