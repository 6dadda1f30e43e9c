"""Consensus merging (Wang et al., ICML 2024, arXiv:2405.07813): what serves one task alone is left out.

    tau_mt = lambda sum_t tau_t
    mask_t = |tau_t| > threshold_t |tau_mt - tau_t|
    theta  = theta_0 + tau_mt where at least k of the T masks are set, theta_0 elsewhere

Special case, tested: k = 0 is task arithmetic. Nothing is per parameter or per model.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from merging.errors import OptionError
from merging.methods._tall import multi_task_vector, task_mask
from merging.methods._tasks import check_finite, per_task

if TYPE_CHECKING:
    from torch import Tensor

    from merging.methods._seam import Granularity


@dataclass(frozen=True, kw_only=True)
class Options:
    """What ``merge`` can be told."""

    min_tasks: int = 2
    """k: how many tasks an element must serve, 0..T."""
    threshold: float | Mapping[str, float] = 0.6
    """How large an element must be beside what the others add to serve a task, >= 0; one value, or one by
    task."""
    scaling_factor: float = 1.0
    """lambda of the multi-task vector, for masks and result alike."""

    def __post_init__(self) -> None:
        if self.min_tasks < 0:
            raise OptionError(f"consensus: min_tasks must be >= 0, got {self.min_tasks}.")
        check_finite("consensus: threshold", self.threshold, low=0.0)
        check_finite("consensus: scaling_factor", self.scaling_factor)


def granularity(options: Options) -> Granularity:
    """Pieces of a parameter may be merged one after another."""
    return "elements"


def merge(base: Tensor, models: Mapping[str, Tensor], options: Options) -> Tensor:
    """Merge one parameter, elementwise.

    Args:
        base: theta_0.
        models: theta_t by task, of the same shape.
        options: k, thresholds, scaling factor.

    Returns:
        The merged parameter. Inputs are not modified.

    Raises:
        OptionError: k is larger than the number of models, which would leave the base as it is.
    """
    import torch

    if options.min_tasks > len(models):
        raise OptionError(
            f"consensus: min_tasks must be at most the number of models, {len(models)}, got "
            f"{options.min_tasks}; with more, the result would be the base."
        )
    vectors = {task: models[task] - base for task in models}
    multi_task = multi_task_vector(vectors, options.scaling_factor)
    num_served = torch.zeros(base.shape, dtype=torch.int32, device=base.device)
    for task, threshold in per_task("consensus: threshold", options.threshold, models).items():
        num_served += task_mask(vectors[task], multi_task, threshold)
    return base + multi_task * (num_served >= options.min_tasks)
