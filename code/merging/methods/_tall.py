"""Task masks of TALL masks (Wang et al., ICML 2024, arXiv:2405.07813), for the methods that use them.

tau_mt = lambda sum_t tau_t                          multi-task vector
mask_t = |tau_t| > threshold_t |tau_mt - tau_t|      elementwise
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


def multi_task_vector(vectors: Mapping[str, Tensor], scaling_factor: float) -> Tensor:
    """tau_mt; a new tensor.

    Args:
        vectors: tau_t by task, of one shape.
        scaling_factor: lambda.
    """
    first, *others = (vectors[task] for task in sorted(vectors))
    total = first.clone()
    for vector in others:
        total.add_(vector)
    return total.mul_(scaling_factor)


def task_mask(vector: Tensor, multi_task: Tensor, threshold: float) -> Tensor:
    """Where an element of the multi-task vector serves a task; bool."""
    return vector.abs() > (multi_task - vector).abs_().mul_(threshold)
