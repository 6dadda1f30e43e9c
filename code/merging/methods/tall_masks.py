"""TALL masks (Wang et al., ICML 2024, arXiv:2405.07813): one task's model out of the multi-task model.

    tau_mt  = lambda sum_t tau_t
    mask_t  = |tau_t| > threshold_t |tau_mt - tau_t|
    theta^t = theta_0 + mask_t tau_mt                 with ``task``: the model for that task
    theta   = theta_0 + tau_mt                        without: what all of them are cut from, task arithmetic

Special case, tested: one task with lambda = 1 is its model. Nothing is per parameter or per model.
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

    task: str | None = None
    """For which task the model is; without it, no mask is applied."""
    threshold: float | Mapping[str, float] = 0.6
    """How large an element must be beside what the others add, >= 0; one value, or one by task. The authors
    choose among 0.2, 0.3, ..., 0.6 for each task, by validation."""
    scaling_factor: float = 1.0
    """lambda of the multi-task vector, for masks and result alike."""

    def __post_init__(self) -> None:
        check_finite("tall_masks: threshold", self.threshold, low=0.0)
        check_finite("tall_masks: scaling_factor", self.scaling_factor)


def granularity(options: Options) -> Granularity:
    """Pieces of a parameter may be merged one after another."""
    return "elements"


def merge(base: Tensor, models: Mapping[str, Tensor], options: Options) -> Tensor:
    """Merge one parameter, elementwise.

    Args:
        base: theta_0.
        models: theta_t by task, of the same shape.
        options: task, thresholds, scaling factor.

    Returns:
        The merged parameter. Inputs are not modified.

    Raises:
        OptionError: the task has no model.
    """
    if options.task is not None and options.task not in models:
        raise OptionError(
            f"tall_masks: task must be one of {', '.join(sorted(models))}, got {options.task!r}."
        )
    vectors = {task: models[task] - base for task in models}
    multi_task = multi_task_vector(vectors, options.scaling_factor)
    if options.task is not None:
        threshold = per_task("tall_masks: threshold", options.threshold, models)[options.task]
        multi_task = multi_task * task_mask(vectors[options.task], multi_task, threshold)
    return base + multi_task
