"""Softmax scores: one label for each position, drawn from C classes, independently given the scores."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

from merging.errors import OptionError
from merging.hessians._positions import one_at_a_time

if TYPE_CHECKING:  # estimators are looked up while graphs are built, where torch must not be imported
    from torch import Tensor

IGNORED = -100
"""Label of a position that predicts nothing."""

_BLOCK = 64
"""Classes that are summed first where there are more than its square."""

_CHUNK_ELEMENTS = 1 << 21
"""Scores whose distribution functions exist at one time, 16 MB: vocabularies have many classes."""


def probabilities(scores: Tensor) -> Tensor:
    """Return softmax over the last dimension, in float32 or better.

    Raises:
        OptionError: fewer than two classes.
    """
    import torch

    num_classes = scores.shape[-1]
    if num_classes < 2:
        raise OptionError(
            f"scores have {num_classes} class; a label distribution needs at least 2. Name "
            "the other classes in the data; a number to be predicted is the task type regression."
        )
    return scores.softmax(-1, dtype=torch.promote_types(scores.dtype, torch.float32))


def counted(scores: Tensor, labels: Tensor | None) -> Tensor:
    """Return which positions predict something: bool, (B,) or (B, R)."""
    import torch

    if labels is None:
        return torch.ones(scores.shape[:-1], dtype=torch.bool, device=scores.device)
    return labels != IGNORED


def draw(scores: Tensor, where: Tensor, keys: Sequence[tuple[int, int, int]]) -> Tensor:
    """Draw labels, (B,) or (B, R), by inverting the distribution function; 0 outside ``where``.

    Each example has a generator of its own, and its j-th counted position takes the j-th number, so that
    neither other examples nor padding matter.
    """
    import numpy as np
    import torch

    num_classes = scores.shape[-1]
    counts = where.cpu().reshape(len(where), -1).sum(1).tolist()
    uniforms = np.concatenate(
        [np.random.default_rng(key).random(count) for key, count in zip(keys, counts, strict=True)]
    )
    labels = torch.zeros(where.shape, dtype=torch.int64, device=scores.device)
    rows = max(1, _CHUNK_ELEMENTS // num_classes)
    places = torch.split(where.flatten().nonzero().squeeze(-1), rows)
    numbers_at = torch.split(torch.from_numpy(uniforms).to(scores.device), rows)
    for some, numbers in zip(places, numbers_at, strict=True):
        p = probabilities(scores.reshape(-1, num_classes)[some])
        labels.view(-1)[some] = (
            _inverse(p, numbers) if num_classes <= _BLOCK**2 else _inverse_of_many(p, numbers)
        )
    return labels


def _inverse(p: Tensor, numbers: Tensor) -> Tensor:
    """Return the first class whose cumulative probability exceeds a number: p (N, C), numbers (N,)."""
    import torch

    distribution = p.cumsum(-1, dtype=torch.float64)
    found = torch.searchsorted(distribution, numbers.unsqueeze(-1), right=True).squeeze(-1)
    return found.clamp(max=p.shape[-1] - 1)  # rounded sums of probabilities need not reach 1


def _inverse_of_many(p: Tensor, numbers: Tensor) -> Tensor:
    """Do the same by blocks of classes: which block, then which class of it; no (N, C) in float64."""
    import torch
    from torch.nn import functional

    blocks = functional.pad(p, (0, -p.shape[-1] % _BLOCK)).view(len(p), -1, _BLOCK)
    ends = blocks.sum(-1, dtype=torch.float64).cumsum(-1)
    block = torch.searchsorted(ends, numbers.unsqueeze(-1), right=True).clamp(max=ends.shape[-1] - 1)
    before = functional.pad(ends, (1, 0)).gather(-1, block).squeeze(-1)
    within = blocks.gather(1, block.unsqueeze(-1).expand(-1, -1, _BLOCK)).squeeze(1)
    found = block.squeeze(-1) * _BLOCK + _inverse(within, numbers - before)
    return found.clamp(max=p.shape[-1] - 1)


def score_gradient(scores: Tensor, labels: Tensor, where: Tensor) -> Tensor:
    """Return d log p(label) / d scores = e_label - p, shaped like ``scores``; zero outside ``where``."""
    gradient = probabilities(scores)
    weights = where.to(gradient.dtype).unsqueeze(-1)
    gradient.mul_(-weights)  # in place: of a vocabulary this is as large as all activations
    gradient.scatter_add_(-1, labels.where(where, 0).unsqueeze(-1), weights)
    return gradient.to(scores.dtype)


def factors(scores: Tensor, where: Tensor) -> Iterator[Tensor]:
    """Yield C - 1 vectors for each position whose outer products sum to diag(p) - p p^T.

    They are the columns of its Cholesky factor, in closed form (Tanabe and Sagae, J. R. Statist. Soc. B 54,
    1992): with s_c = p_c + ... + p_C, column c is sqrt(p_c / (s_c s_{c+1})) times (0, ..., 0, s_{c+1},
    -p_{c+1}, ..., -p_C). They are one fewer than sqrt(p_c) (e_c - p) for each class, so two classes take one
    backward pass.
    """
    import torch

    p = probabilities(scores)
    rest = p.flip(-1).cumsum(-1).flip(-1)  # s_c, summed from the end: no cancellation
    tiny = torch.finfo(p.dtype).tiny
    for position in one_at_a_time(where):
        for label in range(scores.shape[-1] - 1):
            here, after = rest[..., label], rest[..., label + 1]
            share = (p[..., label] / here.clamp(min=tiny)).sqrt() * position
            column = torch.zeros_like(p)
            column[..., label] = share * after.sqrt()
            ratio = share / after.sqrt().clamp(min=tiny)
            column[..., label + 1 :] = -p[..., label + 1 :] * ratio.unsqueeze(-1)
            yield column.to(scores.dtype)


def averaged(
    cotangents: Callable[[Tensor], Iterable[Tensor]], scores: Tensor, *, labels: Tensor | None
) -> Iterator[Tensor]:
    """Yield cotangents for the loss averaged, instead of summed, over the predictions of each example."""
    where = counted(scores, labels)
    counts = where.reshape(len(where), -1).sum(1).clamp(min=1)
    for cotangent in cotangents(scores):
        yield cotangent / counts.view(-1, *[1] * (cotangent.dim() - 1))
