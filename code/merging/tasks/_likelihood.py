"""Log-likelihoods of given tokens, for task types whose classes are a vocabulary.

    log p(y_r | y_<r, x) = z_r[y_r] - log sum_v exp z_r[v]

A vocabulary is large, so that scores of (B, R, V) are the largest tensor of a batch: nothing here makes a
second one but for the gradient that autograd asks for. Sums are in float32 or better.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:  # task types are looked up while graphs are built, where torch must not be imported
    from torch import Tensor

IGNORED = -100
"""Label of a position that predicts nothing."""

_CHUNK_ELEMENTS = 1 << 22
"""Scores that are looked at together; a piece of 16 MB in float32."""


def token_log_likelihoods(scores: Tensor, labels: Tensor) -> Tensor:
    """Return log p of each label, (B, R), in nats; 0 where the label is -100.

    Args:
        scores: logits, (B, R, V), where position r predicts label r.
        labels: (B, R), -100 where nothing is predicted.
    """
    import torch

    counted = labels != IGNORED
    chosen = labels.where(counted, 0).flatten().unsqueeze(-1)
    rows = max(1, _CHUNK_ELEMENTS // scores.shape[-1])
    pieces = []
    for piece, label in zip(torch.split(scores.flatten(0, 1), rows), torch.split(chosen, rows), strict=True):
        exact = piece.to(torch.promote_types(piece.dtype, torch.float32))
        pieces.append(exact.gather(-1, label).squeeze(-1) - exact.logsumexp(-1))
    return torch.cat(pieces).view_as(labels).where(counted, 0.0)


def log_likelihoods(scores: Tensor, labels: Tensor, *, length_normalised: bool = False) -> Tensor:
    """Return log p of each sequence, (B,), in nats: the sum over its tokens.

    Args:
        scores: logits, (B, R, V), where position r predicts label r.
        labels: (B, R), -100 where nothing is predicted.
        length_normalised: the mean over its tokens instead; 0 for a sequence without any.
    """
    totals = token_log_likelihoods(scores, labels).sum(-1)
    if length_normalised:
        totals = totals / (labels != IGNORED).sum(-1).clamp(min=1)
    return totals


def mean_loss(scores: Tensor, labels: Tensor) -> Tensor:
    """Return minus the mean of log p over all tokens of a batch that are predicted: what is trained with.

    A batch without any has the loss 0.
    """
    return -token_log_likelihoods(scores, labels).sum() / (labels != IGNORED).sum().clamp(min=1)
