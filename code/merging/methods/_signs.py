"""Agreement on signs: elect one for each element, then merge what has it (TIES, steps 2 and 3)."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from torch import Tensor

Election = Literal["mass", "count", "normmass", "normfrac"]
"""Whose sign is elected: that of the sum over the tasks of the (weighted) task vectors x_t ("mass"), of their
signs ("count") or of sign(x_t) x_t^2 / |x_t|^2 ("normmass"), or of the task with the largest x_t^2 / |x_t|^2
("normfrac"); |x_t| is the norm of the whole (trimmed, weighted) vector."""
MergeFunction = Literal["mean", "sum", "max"]
"""What becomes of the task vectors that agree: their weighted mean, their sum, or the largest magnitude."""


def needs_norms(election: Election) -> bool:
    """Whether the norms of the task vectors have a part in the election."""
    return election in ("normmass", "normfrac")


def vote(
    vectors: Iterable[Tensor], election: Election = "mass", norms: Iterable[float] | None = None
) -> Tensor:
    """A new tensor, whose sign is the elected one; elements where it is 0 are balanced, or empty.

    Args:
        vectors: of the tasks, of one shape; unchanged.
        election: see there.
        norms: L2 norm of each whole vector, for the elections that need them.
    """
    total: Tensor | None = None
    for vector, norm in zip(vectors, itertools.repeat(1.0) if norms is None else norms, strict=False):
        if election == "mass":
            share = vector
        elif election == "count":
            share = vector.sign()
        else:
            share = vector / (norm or 1.0)
            share.mul_(share.abs())
        if total is None:
            total = share.clone()
        else:
            total = _larger(total, share) if election == "normfrac" else total.add_(share)
    assert total is not None, "no models"
    return total


def _larger(one: Tensor, other: Tensor) -> Tensor:
    """The one of larger magnitude, elementwise; of equal ones the first."""
    import torch

    return torch.where(other.abs() > one.abs(), other, one)


def merge_agreeing(
    vectors: Mapping[str, Tensor],
    weights: Mapping[str, float],
    merge_function: MergeFunction,
    *,
    election: Election = "mass",
    norms: Mapping[str, float] | None = None,
    balanced: int = 1,
) -> Tensor:
    """Elect signs, and merge the task vectors where they have the elected one.

    Args:
        vectors: w_t tau'_t by task, of one shape; they are used up: overwritten.
        weights: w_t; the mean divides by the sum of those that agree (by 1 where that sum is 0).
        merge_function: see there.
        election: see there.
        norms: L2 norm of each whole vector by task, for the elections that need them.
        balanced: 1 or -1, the sign elected where the sum is 0.

    Returns:
        The merged task vector.
    """
    import torch

    sign = vote(vectors.values(), election, [norms[task] for task in vectors] if norms else None)
    sign = sign.ge_(0.0) if balanced > 0 else sign.gt_(0.0)
    sign.mul_(2.0).sub_(1.0)
    merged, divisor = torch.zeros_like(sign), torch.zeros_like(sign)
    for task, vector in vectors.items():
        agreeing = vector.mul_(sign).relu_()  # magnitudes
        if merge_function == "max":
            torch.maximum(merged, agreeing, out=merged)
            continue
        merged.add_(agreeing)
        if merge_function == "mean":
            divisor.add_(agreeing.gt_(0.0), alpha=weights[task])
    if merge_function == "mean":
        merged.div_(divisor.add_(divisor.clone().eq_(0.0)))
    return merged.mul_(sign)
