"""RAM with unique changes enlarged, to make up for shared ones that averaging shrinks (RAM+, as in mergekit).

    theta = theta_0 + sum_t k_t tau_t
    k_t = 1 / c                                        where c > 1 tasks change the element
    k_t = 1 + r clip(shared_t / unique_t, 0, alpha)    where only t does

A change is |tau_t| > epsilon; shared_t and unique_t count the elements that task t changes with others and
alone: per parameter, not per model.

Special cases, tested: r = 0 or alpha = 0 is RAM; one model returns itself (up to epsilon).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from merging.methods._ram import changes, check_epsilon, merge_changes
from merging.methods._seam import Granularity, Piece, Pieces
from merging.methods._tasks import check_finite

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class Options:
    """What ``merge`` can be told."""

    epsilon: float = 1e-5
    """Size up to which a difference is no change, >= 0, in the unit of the weights."""
    r: float = 0.1
    """How much unique changes grow with the share of shared ones, >= 0."""
    alpha: float = 0.2
    """Largest shared_t / unique_t that counts, >= 0; factors stay in 1..1 + r alpha."""

    def __post_init__(self) -> None:
        check_epsilon("ramplus", self.epsilon)
        check_finite("ramplus: r", self.r, low=0.0)
        check_finite("ramplus: alpha", self.alpha, low=0.0)


def granularity(options: Options) -> Granularity:
    """Pieces of a parameter may be merged one after another."""
    return "elements"


def measure(pieces: Pieces, options: Options) -> list[float]:
    """Take the factor of each task's unique changes, sorted by task."""
    found = pieces.map(lambda piece: _count(piece, options))
    factors = []
    for counts in zip(*found, strict=True):
        shared, unique = (sum(numbers) for numbers in zip(*counts, strict=True))
        ratio = shared / unique if unique else 0.0  # without unique changes the factor meets nothing
        factors.append(1.0 + options.r * min(ratio, options.alpha))
    return factors


def merge(base: Tensor, models: Mapping[str, Tensor], options: Options, measure: list[float]) -> Tensor:
    """Merge a piece of a parameter, elementwise.

    Args:
        base: theta_0.
        models: theta_t by task.
        options: epsilon; the others' effect is in ``measure``.
        measure: factor of each task's unique changes in this parameter, sorted by task.

    Returns:
        The merged piece. Inputs are not modified.
    """
    deltas, count = changes(base, models, options.epsilon)
    return merge_changes(base, deltas, count, measure)


def _count(piece: Piece, options: Options) -> list[tuple[int, int]]:
    """How many elements each task changes with others, and alone."""
    import torch

    # Pieces are far below 2**24 elements, up to which float32 counts without error.
    deltas, count = changes(piece["base"], piece["models"], options.epsilon)
    unique = (count == 1).to(count).reshape(-1)
    counts = []
    for delta in deltas:
        changed = delta.sign_().abs_().reshape(-1)
        num_changed, num_unique = int(changed.sum()), int(torch.dot(changed, unique))
        counts.append((num_changed - num_unique, num_unique))
    return counts
