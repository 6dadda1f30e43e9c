"""Task arithmetic on what TIES leaves of task vectors, as AdaMerging++ does (Yang et al., ICLR 2024,
arXiv:2310.02575).

    tau'_t  = trim(theta_t - theta_0)        keeps the share ``density`` of largest magnitude, zeroes the rest
    s       = sign(sum_t tau'_t)
    tau''_t = tau'_t where sign(tau'_t) = s, else 0
    theta   = theta_0 + sum_t alpha_t tau''_t

Unlike TIES, what agrees is not averaged, and the factors play no part in the election. Trimming, ties and
sums of 0 are those of TIES' flavour "global": numbers of the whole model. Special cases, tested: with density
1 and task vectors that agree everywhere it is task arithmetic; with one factor for all tasks it is TIES with
merge_function "sum".
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from merging.methods._signs import vote
from merging.methods._sparsify import check_share, tasks_of
from merging.methods._tasks import check_finite, per_task
from merging.methods._thresholds import Cut, largest, num_elements

if TYPE_CHECKING:
    from torch import Tensor

    from merging.methods._seam import Granularity, Parameter, Piece, Pieces


@dataclass(frozen=True, kw_only=True)
class Options:
    """What ``merge`` can be told."""

    density: float = 0.2
    """Share of the elements of each task vector that is kept; > 0 and <= 1, the same for all parameters."""
    scaling_factor: float | Mapping[str, float] = 1.0
    """alpha: one value for all tasks, or alpha_t by task."""

    def __post_init__(self) -> None:
        check_share("task_arithmetic_ties: density", self.density)
        check_finite("task_arithmetic_ties: scaling_factor", self.scaling_factor)


@dataclass(frozen=True)
class Summary:
    """Of the whole model."""

    thresholds: Mapping[str, float]
    """Smallest magnitude that is kept, by task."""
    majority: int
    """Sign of the sum of all elected signs: -1, 0 or 1; elected where a sum is 0."""


def granularity(options: Options) -> Granularity:
    """Thresholds are taken before; then elements stand alone."""
    return "elements"


def summarize(parameters: Pieces, options: Options) -> Summary:
    """Thresholds and the majority sign."""
    total = num_elements(parameters)
    count = total if options.density == 1 else int(options.density * total) + 1  # the threshold itself stays
    counts = {task: [count] for task in tasks_of(parameters)}
    thresholds = {task: cut.value for task, (cut,) in largest(parameters, counts, with_ties=True).items()}

    def balance(piece: Piece) -> int:
        trimmed = _trimmed(piece["base"], piece["models"], thresholds, piece.parameter.start)
        return int(vote(trimmed.values()).sign_().sum())

    majority = sum(parameters.map(balance))
    return Summary(thresholds=thresholds, majority=(majority > 0) - (majority < 0))


def merge(
    base: Tensor, models: Mapping[str, Tensor], options: Options, summary: Summary, parameter: Parameter
) -> Tensor:
    """Merge one parameter, or a piece of it.

    Args:
        base: theta_0.
        models: theta_t by task, of the same shape.
        options: factors.
        summary: of the whole model.
        parameter: where the piece begins.

    Returns:
        The merged parameter. Inputs are not modified.
    """
    alpha = per_task("task_arithmetic_ties: scaling_factor", options.scaling_factor, models)
    merged = base.clone()
    for task, vector in task_vectors(base, models, summary, parameter).items():
        merged.add_(vector, alpha=alpha[task])
    return merged


def task_vectors(
    base: Tensor, models: Mapping[str, Tensor], summary: Summary, parameter: Parameter
) -> dict[str, Tensor]:
    """tau''_t by task, sorted; new tensors. Arguments as for ``merge``."""
    trimmed = _trimmed(base, models, summary.thresholds, parameter.start)
    total = vote(trimmed.values())
    positive = total.ge(0.0) if summary.majority > 0 else total.gt(0.0)
    for vector in trimmed.values():
        vector.masked_fill_(vector.gt(0.0) != positive, 0.0)
    return trimmed


def _trimmed(
    base: Tensor, models: Mapping[str, Tensor], thresholds: Mapping[str, float], start: int
) -> dict[str, Tensor]:
    """tau'_t by task, sorted; new tensors."""
    return {task: Cut(thresholds[task]).keep_(models[task] - base, start) for task in sorted(models)}
