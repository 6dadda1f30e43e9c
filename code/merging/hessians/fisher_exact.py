"""Diagonal of the true Fisher, with the expectation over classes taken exactly.

    F = mean over examples of sum_c p_c (d log p_c / d theta)^2

The gradient of log p_c is J^T (e_c - p) with the Jacobian J of the scores, so C backward passes on one graph
with the cotangents sqrt(p_c) (e_c - p) give it. For softmax this is also the diagonal of the generalised
Gauss-Newton matrix. With R positions each is drawn by itself, which takes R C passes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Final

from merging.errors import OptionError
from merging.hessians import _categorical

if TYPE_CHECKING:  # looked up while graphs are built, where torch must not be imported
    from torch import Tensor

STATISTIC: Final = "diagonal"
NEEDS_LABELS = False
SAMPLES_LABELS = False
MAX_CLASSES = 16


def cotangents(
    scores: Tensor, labels: Tensor | None, *, examples: Sequence[int], num_samples: int, seed: int
) -> Iterator[Tensor]:
    """Yield one gradient for each class of each position; see :class:`merging.hessians.Estimator`.

    Raises:
        OptionError: more than ``MAX_CLASSES`` classes.
    """
    import torch

    num_classes = scores.shape[-1]
    if num_classes > MAX_CLASSES:
        raise OptionError(
            f"fisher_exact takes one backward pass for each class, and there are {num_classes} (at most "
            f"{MAX_CLASSES}). Use fisher_mc; a few num_samples come close."
        )
    where = _categorical.counted(scores, labels)
    roots = _categorical.probabilities(scores).sqrt().to(scores.dtype)
    for position in _positions(where):
        for label in range(num_classes):
            chosen = torch.full(where.shape, label, device=scores.device)
            gradient = _categorical.score_gradient(scores, chosen, position)
            yield gradient * roots[..., label].unsqueeze(-1)


def _positions(where: Tensor) -> Iterator[Tensor]:
    """Yield masks like ``where`` that keep one position of each example."""
    import torch

    if where.dim() == 1:
        yield where
        return
    for position in range(where.shape[1]):
        if where[:, position].any():
            only = torch.zeros_like(where)
            only[:, position] = where[:, position]
            yield only
