"""Softmax scores: one label for each position, drawn from C classes, independently given the scores."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING

from merging.errors import OptionError

if TYPE_CHECKING:  # estimators are looked up while graphs are built, where torch must not be imported
    from torch import Tensor

IGNORED = -100
"""Label of a position that predicts nothing."""


def probabilities(scores: Tensor) -> Tensor:
    """Return softmax over the last dimension, in float32 or better.

    Raises:
        OptionError: fewer than two classes.
    """
    import torch

    num_classes = scores.shape[-1]
    if num_classes < 2:
        raise OptionError(
            f"scores have {num_classes} class; a label distribution needs at least 2. Regression heads have "
            "no estimator here."
        )
    return scores.to(torch.promote_types(scores.dtype, torch.float32)).softmax(-1)


def counted(scores: Tensor, labels: Tensor | None) -> Tensor:
    """Return which positions predict something: bool, (B,) or (B, R)."""
    import torch

    if labels is None:
        return torch.ones(scores.shape[:-1], dtype=torch.bool, device=scores.device)
    return labels != IGNORED


def score_gradient(scores: Tensor, labels: Tensor, where: Tensor) -> Tensor:
    """Return d log p(label) / d scores = e_label - p, shaped like ``scores``; zero outside ``where``."""
    from torch.nn import functional

    p = probabilities(scores)
    chosen = functional.one_hot(labels.where(where, 0), scores.shape[-1])
    return ((chosen - p) * where.unsqueeze(-1)).to(scores.dtype)


def averaged(
    cotangents: Callable[[Tensor], Iterable[Tensor]], scores: Tensor, *, labels: Tensor | None
) -> Iterator[Tensor]:
    """Yield cotangents for the loss averaged, instead of summed, over the predictions of each example."""
    where = counted(scores, labels)
    counts = where.reshape(len(where), -1).sum(1).clamp(min=1)
    for cotangent in cotangents(scores):
        yield cotangent / counts.view(-1, *[1] * (cotangent.dim() - 1))
