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
    import torch

    deltas = []
    count = torch.zeros_like(base)
    for task in sorted(models):
        delta = models[task] - base
        torch.hardshrink(delta, epsilon, out=delta)
        deltas.append(delta)
        count.add_(delta.sign().abs_())
    return deltas, count


def merge_changes(
    base: Tensor, deltas: Sequence[Tensor], count: Tensor, factors: Sequence[float] | None = None
) -> Tensor:
    """theta_0 plus the mean of shared changes, plus unique ones times their task's factor, 1 by default."""
    import torch

    total = torch.zeros_like(base)
    for delta in deltas:
        total.add_(delta)
    total.div_(count.clamp(min=1.0))
    if factors is not None:
        alone = torch.zeros_like(base)
        for delta, factor in zip(deltas, factors, strict=True):
            alone.add_(delta, alpha=factor)
        total = torch.where(count == 1, alone, total)
    return total.add_(base)
