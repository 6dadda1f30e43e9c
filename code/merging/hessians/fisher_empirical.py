"""Diagonal of the empirical Fisher: squared gradients at the labels of the data.

    F = mean over examples of (d log p(y_data | x) / d theta)^2

Of several positions the log-probabilities are summed first. It is no estimate of the true Fisher: it vanishes
where the model fits its labels and is largest on label noise (Kunstner et al., NeurIPS 2019,
arXiv:1905.12558).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Final

from merging.errors import DataError
from merging.hessians import _categorical
from merging.hessians._distributions import Distribution

if TYPE_CHECKING:  # looked up while graphs are built, where torch must not be imported
    from torch import Tensor

STATISTIC: Final = "diagonal"
NEEDS_LABELS = True
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
    """Yield the one gradient at the given labels; see :class:`merging.hessians.Estimator`.

    Raises:
        DataError: there are no labels.
    """
    if labels is None:
        raise DataError(
            "fisher_empirical needs labels, but the data has none. Use fisher_mc or fisher_exact."
        )
    yield distribution.score_gradient(scores, labels, distribution.counted(scores, labels))
