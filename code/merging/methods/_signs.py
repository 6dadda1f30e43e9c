"""Agreement on signs: elect one for each element, then merge what has it (TIES, steps 2 and 3)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from torch import Tensor

Election = Literal["mass", "count"]
"""What is summed over the tasks to get the sign: the (weighted) task vectors, or their signs."""
MergeFunction = Literal["mean", "sum", "max"]
"""What becomes of the task vectors that agree: their weighted mean, their sum, or the largest magnitude."""


def vote(vectors: Iterable[Tensor], election: Election = "mass") -> Tensor:
    """A new tensor, the sum whose sign is elected; elements where it is 0 are balanced, or empty."""
    total: Tensor | None = None
    for vector in vectors:
        if election == "count":
            vector = vector.sign()
        total = vector.clone() if total is None else total.add_(vector)
    assert total is not None, "no models"
    return total


def merge_agreeing(
    vectors: Mapping[str, Tensor],
    weights: Mapping[str, float],
    merge_function: MergeFunction,
    *,
    election: Election = "mass",
    balanced: int = 1,
) -> Tensor:
    """Elect signs, and merge the task vectors where they have the elected one.

    Args:
        vectors: w_t tau'_t by task, of one shape; they are used up: overwritten.
        weights: w_t; the mean divides by the sum of those that agree (by 1 where that sum is 0).
        merge_function: see there.
        election: see there.
        balanced: 1 or -1, the sign elected where the sum is 0.

    Returns:
        The merged task vector.
    """
    import torch

    sign = vote(vectors.values(), election)
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
