"""Average what several tasks changed, add in full what one task changed alone (RAM, as in mergekit).

    theta = theta_0 + sum_t tau_t / c          summed over the c tasks with |tau_t| > epsilon

Elementwise; no number is of a parameter or model. Averaging over all tasks instead would shrink changes that
only one of them made, which is what models from reinforcement learning, with few changes, suffer from.

Special cases, tested: one model returns itself (up to epsilon); disjoint changes all arrive in full.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from merging.methods._ram import changes, check_epsilon, merge_changes
from merging.methods._seam import Granularity

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class Options:
    """What ``merge`` can be told."""

    epsilon: float = 1e-5
    """Size up to which a difference is no change, >= 0, in the unit of the weights."""

    def __post_init__(self) -> None:
        check_epsilon("ram", self.epsilon)


def granularity(options: Options) -> Granularity:
    """Pieces of a parameter may be merged one after another."""
    return "elements"


def merge(base: Tensor, models: Mapping[str, Tensor], options: Options) -> Tensor:
    """Merge a piece of a parameter, elementwise.

    Args:
        base: theta_0.
        models: theta_t by task.
        options: epsilon.

    Returns:
        The merged piece. Inputs are not modified.
    """
    deltas, count = changes(base, models, options.epsilon)
    return merge_changes(base, deltas, count)
