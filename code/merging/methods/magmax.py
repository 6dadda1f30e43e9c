"""MagMax (Marczak et al., ECCV 2024, arXiv:2407.06322).

    theta = theta_0 + lambda tau_s        s = argmax_t |tau_t|, element by element

Of several tasks of the same magnitude the last one counts, in the order of their names: the only case in
which names matter. Special case, tested: one task with lambda = 1 is its model. Nothing is per parameter or
per model.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from merging.methods._tasks import check_finite

if TYPE_CHECKING:
    from torch import Tensor

    from merging.methods._seam import Granularity


@dataclass(frozen=True, kw_only=True)
class Options:
    """What ``merge`` can be told."""

    scaling_factor: float = 0.5
    """lambda, by which the selected differences are multiplied."""

    def __post_init__(self) -> None:
        check_finite("magmax: scaling_factor", self.scaling_factor)


def granularity(options: Options) -> Granularity:
    """Pieces of a parameter may be merged one after another."""
    return "elements"


def merge(base: Tensor, models: Mapping[str, Tensor], options: Options) -> Tensor:
    """Merge one parameter, elementwise.

    Args:
        base: theta_0.
        models: theta_t by task, of the same shape.
        options: the scaling factor.

    Returns:
        The merged parameter. Inputs are not modified.
    """
    import torch

    largest = torch.zeros_like(base)
    for task in sorted(models):
        vector = models[task] - base
        largest = torch.where(vector.abs() >= largest.abs(), vector, largest)
    return base.add(largest, alpha=options.scaling_factor)
