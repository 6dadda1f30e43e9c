"""Diagonal of the true Fisher, with the expectation over labels taken exactly.

    F = mean over examples of E_{y ~ p(y | x)} (d log p(y | x) / d theta)^2

Of C classes it is sum_c p_c (d log p_c / d theta)^2 = diag(J^T (diag(p) - p p^T) J) with the Jacobian J of
the scores; C - 1 backward passes on one graph give it, one for each column of a Cholesky factor of the middle
matrix. Of real scores with unit variance (regression) it is diag(J^T J), one pass for each score. In both
cases this is also the diagonal of the generalised Gauss-Newton matrix (``ggn``). With R positions each is
taken by itself, which takes R times as many.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Final

from merging.errors import OptionError
from merging.hessians import _categorical
from merging.hessians._distributions import Distribution

if TYPE_CHECKING:  # looked up while graphs are built, where torch must not be imported
    from torch import Tensor

STATISTIC: Final = "diagonal"
NEEDS_LABELS = False
SAMPLES_LABELS = False
MAX_CLASSES = 16


def cotangents(
    scores: Tensor,
    labels: Tensor | None,
    *,
    examples: Sequence[int],
    num_samples: int,
    seed: int,
    distribution: Distribution = _categorical,
) -> Iterator[Tensor]:
    """Yield the passes of each position; see :class:`merging.hessians.Estimator`.

    Raises:
        OptionError: more than ``MAX_CLASSES`` classes.
    """
    num_classes = scores.shape[-1]
    if num_classes > MAX_CLASSES:
        raise OptionError(
            f"fisher_exact and ggn take a backward pass for each class but one, and there are {num_classes} "
            f"(at most {MAX_CLASSES}). Use fisher_mc; a few num_samples come close."
        )
    yield from distribution.factors(scores, distribution.counted(scores, labels))
