"""Updates of low rank, and how they combine: the mathematics of LoRA merging; pure functions of tensors.

update_t = s_t B_t A_t
concat    sum_t c_t update_t, exactly: A = [c_1 s_1 A_1; ...; c_T s_T A_T], B = [B_1, ..., B_T]
truncate  the nearest update of rank r (Eckart-Young): U S V^T cut after r; B = U S, A = V^T
linear    sums of factors: A = sum_t sign(c_t) sqrt(|c_t| s_t) A_t, B = sum_t sqrt(|c_t| s_t) B_t. NOT the
          sum of the updates: it has the cross terms B_i A_j. Offered because peft calls it "linear".
knots     the frame of KnOTS (Stoica et al., ICLR 2025, arXiv:2410.19735):
          [update_1 .. update_T] = U S [V_1^T .. V_T^T]; tasks are merged as S V_t^T, then times U
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from merging.errors import OptionError

if TYPE_CHECKING:
    from torch import Tensor

KNOTS_THRESHOLD = 1e-4
"""Directions with smaller singular values are left out of the common frame, as in the reference of KnOTS."""


@dataclass(frozen=True)
class Update:
    """What a LoRA module adds to a weight of shape (outputs, inputs): ``scaling * b @ a``."""

    a: Tensor
    """(rank, inputs)."""
    b: Tensor
    """(outputs, rank)."""
    scaling: float = 1.0

    @property
    def rank(self) -> int:
        """Columns of B; the true rank may be lower."""
        return int(self.a.shape[0])

    def dense(self) -> Tensor:
        """The update multiplied out, (outputs, inputs)."""
        return (self.b @ self.a).mul_(self.scaling)


def concat(updates: Sequence[Update], weights: Sequence[float]) -> Update:
    """The weighted sum of updates, exactly, of rank sum(r_t); weights of any sign go into A."""
    import torch

    parts = list(zip(updates, weights, strict=True))
    return Update(
        a=torch.cat([its.a * (weight * its.scaling) for its, weight in parts]),
        b=torch.cat([its.b for its, _ in parts], dim=1),
    )


def linear(updates: Sequence[Update], weights: Sequence[float]) -> Update:
    """Sums of factors, each times the root of weight and scaling, as in peft's "linear"; see above.

    Raises:
        OptionError: the ranks differ, so that the factors cannot be added.
    """
    ranks = [its.rank for its in updates]
    if len(set(ranks)) > 1:
        raise OptionError(
            f"adapters: factors can only be added where ranks are the same, got {ranks}. Use result='concat' "
            "or 'svd', which work for any ranks."
        )
    a, b = updates[0].a.new_zeros(updates[0].a.shape), updates[0].b.new_zeros(updates[0].b.shape)
    for its, weight in zip(updates, weights, strict=True):
        root = math.sqrt(abs(weight) * its.scaling)
        a.add_(its.a, alpha=math.copysign(root, weight))
        b.add_(its.b, alpha=root)
    return Update(a, b)


@dataclass(frozen=True)
class Truncated:
    """An update cut to a rank, and what was lost."""

    update: Update
    lost: float
    """Frobenius norm of result - update."""
    total: float
    """Frobenius norm of the update."""

    @property
    def relative_error(self) -> float:
        """lost / total; 0 for an update of 0."""
        return self.lost / self.total if self.total else 0.0


def truncate(update: Update | Tensor, rank: int, *, clamp: float | None = None) -> Truncated:
    """The nearest update of a rank, and how far away it is.

    A product is decomposed through its factors (two QR decompositions and an SVD of their small product),
    which is exact and never builds the whole matrix; a matrix by a full SVD.

    Args:
        update: a product, or a matrix (outputs, inputs).
        rank: of the result; smaller where the matrix has fewer rows or columns.
        clamp: None, or peft's ``svd_clamp``, 0 to 1: entries of both factors are cut at this quantile of all.
    """
    import torch

    if isinstance(update, Update):
        left, upper = torch.linalg.qr(update.b)
        right, lower = torch.linalg.qr(update.a.T)
        u, s, v = torch.linalg.svd(upper @ lower.T * update.scaling, full_matrices=False)
        u, v = left @ u, v @ right.T
    else:
        u, s, v = torch.linalg.svd(update, full_matrices=False)
    b, a = u[:, :rank] * s[:rank], v[:rank].contiguous()
    if clamp is None:
        return Truncated(Update(a, b), lost=float(s[rank:].double().norm()), total=float(s.double().norm()))
    bound = float(torch.quantile(torch.cat([b.flatten(), a.flatten()]), clamp))
    result = Update(a.clamp(-bound, bound), b.clamp(-bound, bound))
    whole = update.dense() if isinstance(update, Update) else update
    return Truncated(
        result, lost=float((result.dense() - whole).double().norm()), total=float(whole.double().norm())
    )


@dataclass(frozen=True)
class Frame:
    """Updates of several tasks in the common directions of their outputs."""

    directions: Tensor
    """U, (outputs, rank), orthonormal columns."""
    coordinates: Mapping[str, Tensor]
    """S V_t^T by task, (rank, inputs): update_t = U S V_t^T."""


def knots(updates: Mapping[str, Update]) -> Frame:
    """The common frame of KnOTS, computed in float64 through the factors."""
    import torch

    tasks = sorted(updates)
    left, upper = torch.linalg.qr(torch.cat([updates[task].b.double() for task in tasks], dim=1))
    columns = upper.split([updates[task].rank for task in tasks], dim=1)
    rows = {  # left @ row_t = update_t; left is orthonormal, so the SVD of the rows is that of the updates
        task: column @ updates[task].a.double() * updates[task].scaling
        for task, column in zip(tasks, columns, strict=True)
    }
    u, s, _ = torch.linalg.svd(torch.cat(list(rows.values()), dim=1), full_matrices=False)
    u = u[:, s > KNOTS_THRESHOLD]
    dtype = updates[tasks[0]].a.dtype
    return Frame(
        directions=(left @ u).to(dtype),
        coordinates={task: (u.T @ row).to(dtype) for task, row in rows.items()},
    )
