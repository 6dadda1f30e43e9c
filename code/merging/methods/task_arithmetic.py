"""Task arithmetic (Ilharco et al., ICLR 2023, arXiv:2212.04089).

    theta = theta_0 + sum_t alpha_t (theta_t - theta_0)

A negative alpha_t removes a task. Special cases, tested: alpha = 0 is the base; one task with alpha = 1 is
its model; alpha = 1/T for all T tasks is the average.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from merging.methods._tasks import check_finite, per_task

if TYPE_CHECKING:
    from torch import Tensor

    from merging.methods._seam import Granularity
    from merging.methods._weights import Watch


@dataclass(frozen=True, kw_only=True)
class Options:
    """What ``merge`` can be told."""

    scaling_factor: float | Mapping[str, float] = 1.0
    """alpha: one value for all tasks, or alpha_t by task."""

    def __post_init__(self) -> None:
        check_finite("task_arithmetic: scaling_factor", self.scaling_factor)


def granularity(options: Options) -> Granularity:
    """Elementwise."""
    return "elements"


def merge(base: Tensor, models: Mapping[str, Tensor], options: Options, watch: Watch | None = None) -> Tensor:
    """Merge one parameter, elementwise.

    Args:
        base: theta_0.
        models: theta_t by task, of the same shape.
        options: scaling factors.
        watch: is told the weights of each task's difference to the base.

    Returns:
        The merged parameter. Inputs are not modified.
    """
    alpha = per_task("task_arithmetic: scaling_factor", options.scaling_factor, models)
    merged = base * (1 - sum(alpha.values()))  # half the arithmetic of adding differences
    for task, factor in alpha.items():
        merged.add_(models[task], alpha=factor)
        if watch is not None:
            watch(task, factor)
    return merged
