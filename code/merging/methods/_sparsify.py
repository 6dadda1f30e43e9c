"""What the methods share that make task vectors sparse and then combine them.

    theta = theta_0 + lambda sum_t w_t tau'_t         tau'_t: what is left of theta_t - theta_0, rescaled

or, with agreement on signs, theta_0 + lambda times what :mod:`merging.methods._signs` makes of w_t tau'_t.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from merging import kernels
from merging.errors import OptionError
from merging.methods._signs import merge_agreeing
from merging.methods._tasks import check_finite, per_task, values
from merging.methods._thresholds import task_vectors

if TYPE_CHECKING:
    from torch import Tensor

    from merging.kernels import Kept
    from merging.methods._seam import Parameter, Piece, Pieces

_NO_SUM = 1e-8  # below, a sum of weights is not divided by
_NO_NORM = 1e-7  # below, an L1 norm is not divided by: the quotient could overflow

Sparsify = Callable[[str, "Tensor", "Parameter"], "Tensor"]
"""Overwrites (a piece of) the task vector of a task with what is left of it, and returns it."""


@dataclass(frozen=True, kw_only=True)
class Combination:
    """How sparse task vectors are combined; base of the options of several methods."""

    scaling_factor: float = 1.0
    """lambda, by which the merged task vector is multiplied."""
    weights: float | Mapping[str, float] = 1.0
    """w_t: one value for all tasks, or one by task."""
    normalize: bool = False
    """Divide by the sum of the weights; with agreement on signs, of those tasks that agree."""

    def check(self, owner: str) -> None:
        """Refuse numbers that are out of range; ``owner`` starts the error text."""
        check_finite(f"{owner}: scaling_factor", self.scaling_factor)
        check_finite(f"{owner}: weights", self.weights)


def check_share(name: str, value: float | Mapping[str, float], *, zero: bool = False) -> None:
    """Refuse what is no share of the elements: 0..1, and 0 only where it makes sense."""
    for number in values(value):
        if not (0 < number <= 1 or (zero and number == 0)):
            low = "in 0..1" if zero else "> 0 and <= 1"
            raise OptionError(f"{name} must be {low}, got {number}. It is a fraction, not a percentage.")


def value_of(option: float | Mapping[str, float], task: str) -> float:
    """The value of an option for one task."""
    return option[task] if isinstance(option, Mapping) else option


def l1_scales(pieces: Pieces, sparsify: Sparsify, *, of_models: bool = False) -> dict[str, float]:
    """L1 norm of each task vector divided by that of what is left of it; 1 where either is (nearly) 0.

    Args:
        pieces: of one parameter.
        sparsify: see there.
        of_models: take the models themselves in place of their differences to the base.
    """

    def norms(piece: Piece) -> dict[str, tuple[float, float]]:
        vectors = piece["models"].items() if of_models else task_vectors(piece)
        found = {}
        for task, vector in vectors:
            before = float(vector.abs().sum())
            own = vector.clone() if of_models else vector  # what is read is not ours to overwrite
            found[task] = before, float(sparsify(task, own, piece.parameter).abs_().sum())
        return found

    before: dict[str, float] = {}
    after: dict[str, float] = {}
    for found in pieces.map(norms):
        for task, (one, other) in found.items():
            before[task] = before.get(task, 0.0) + one
            after[task] = after.get(task, 0.0) + other
    return {
        task: before[task] / after[task] if min(before[task], after[task]) >= _NO_NORM else 1.0
        for task in before
    }


def tasks_of(pieces: Pieces) -> list[str]:
    """Names of the models, sorted; reads one piece."""
    for piece in pieces:
        return sorted(piece["models"])
    return []


def weighted_vectors(
    weights: Mapping[str, float], vector_of: Callable[[str], Tensor]
) -> Iterator[tuple[str, Tensor]]:
    """w_t tau'_t of each task, sorted, one after another; tau'_t, a new tensor, is made by ``vector_of``."""
    for task in sorted(weights):
        vector = vector_of(task)
        yield task, vector if weights[task] == 1.0 else vector.mul_(weights[task])


def add_up(
    base: Tensor, tasks: Collection[str], options: Combination, vector_of: Callable[[str], Tensor]
) -> Tensor:
    """theta_0 + lambda sum_t w_t tau'_t, divided by the sum of the weights if the options say so."""
    weights = per_task("weights", options.weights, tasks)
    total = sum(weights.values())
    divisor = total if options.normalize and abs(total) >= _NO_SUM else 1.0
    merged = base.clone()
    for task, weight in weights.items():
        merged.add_(vector_of(task), alpha=options.scaling_factor * weight / divisor)
    return merged


def agree(
    base: Tensor,
    models: Mapping[str, Tensor],
    options: Combination,
    vector_of: Callable[[str], Tensor],
    kept: Mapping[str, Kept] | None = None,
) -> Tensor:
    """theta_0 + lambda times the sum, or the mean, of the w_t tau'_t that have the elected sign.

    Args:
        base: theta_0.
        models: theta_t by task.
        options: lambda, weights, mean or sum.
        vector_of: makes tau'_t, a new tensor.
        kept: how :mod:`merging.kernels` make it, if they can.
    """
    weights = per_task("weights", options.weights, models)
    if kept is not None and kernels.can_fuse(base, *models.values()) and len(models) <= kernels.MAX_TASKS:
        return kernels.merge_agreeing(
            base,
            [models[task] for task in weights],
            [kept[task] for task in weights],
            list(weights.values()),
            is_mean=options.normalize,
            scaling_factor=options.scaling_factor,
        )
    vectors = dict(weighted_vectors(weights, vector_of))
    merged = merge_agreeing(vectors, weights, "mean" if options.normalize else "sum")
    return merged.mul_(options.scaling_factor).add_(base)
