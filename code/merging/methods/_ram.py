"""Which elements of a parameter one task changed alone, and which several changed; for ram and ramplus."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from merging.methods._tasks import check_finite

if TYPE_CHECKING:
    from torch import Tensor


def check_epsilon(owner: str, epsilon: float) -> None:
    """Refuse what is no size of a change."""
    check_finite(f"{owner}: epsilon", epsilon, low=0.0)


def changes(base: Tensor, models: Mapping[str, Tensor], epsilon: float) -> tuple[list[Tensor], Tensor]:
    """Differences to the base, 0 where not larger than ``epsilon``, sorted by task; and how many are left."""
    deltas = []
    count = None
    for task in sorted(models):
        delta = models[task] - base
        is_changed = delta.abs() > epsilon
        delta.mul_(is_changed)
        deltas.append(delta)
        count = is_changed.to(delta.dtype) if count is None else count.add_(is_changed)
    assert count is not None
    return deltas, count


def merge_changes(base: Tensor, deltas: Sequence[Tensor], count: Tensor, factors: Sequence[float]) -> Tensor:
    """theta_0 plus unique changes times their task's factor, plus the mean of shared ones."""
    shared = count.clamp(min=1.0).reciprocal_()
    unique = count == 1
    total = base.clone()
    for delta, factor in zip(deltas, factors, strict=True):
        total.addcmul_(delta, shared if factor == 1 else shared.masked_fill(unique, factor))
    return total
