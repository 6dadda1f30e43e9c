"""EMR: elect, mask and rescale (Huang et al., NeurIPS 2024, arXiv:2405.17461).

    sign    = + where sum_t tau_t > 0, else -
    unified = sign max { |tau_t| : tau_t has that sign }            0 where no task has it
    mask_t  = whether tau_t has the sign of unified
    scale_t = sum_p mean |tau_t| / sum_p mean |mask_t unified|      over the parameters p of the model

    theta   = theta_0 + unified                                     one model for all tasks
    theta^t = theta_0 + scale_t mask_t unified                      with ``task``: one model for that task

The rescalers are numbers of the whole model, but sums of means per parameter: a bias counts as much as a
matrix. Special case, tested: one task is its model, in both forms.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from merging.errors import OptionError

if TYPE_CHECKING:
    from torch import Tensor

    from merging.methods._seam import Granularity, Piece, Pieces


@dataclass(frozen=True, kw_only=True)
class Options:
    """What ``merge`` can be told."""

    task: str | None = None
    """For which task the model is; by default one model for all, which needs no masks and no rescalers."""


@dataclass(frozen=True)
class Summary:
    """Of the whole model."""

    rescalers: Mapping[str, float] = field(default_factory=dict)
    """scale_t by task; empty where the model is for all tasks."""


def granularity(options: Options) -> Granularity:
    """Pieces of a parameter may be merged one after another."""
    return "elements"


def elect(vectors: Iterable[Tensor]) -> Tensor:
    """The unified vector, elementwise.

    Args:
        vectors: tau_t of all tasks, at least one, of one shape.
    """
    import torch

    first, *others = vectors
    total, highest, lowest = first.clone(), first.clamp(min=0), first.clamp(max=0)
    for vector in others:
        total.add_(vector)
        highest = torch.maximum(highest, vector)
        lowest = torch.minimum(lowest, vector)
    return torch.where(total > 0, highest, lowest)


def agreement(vector: Tensor, unified: Tensor) -> Tensor:
    """mask_t: where a task vector has the sign of the unified one; bool."""
    return vector.sign() * unified.sign() > 0


def summarize(parameters: Pieces, options: Options) -> Summary:
    """Measure the rescaler of every task; reads nothing where one model is for all tasks."""
    if options.task is None:
        return Summary()
    total: dict[str, tuple[float, float]] = {}
    for part in parameters.map(_magnitudes):
        for task, (own, masked) in part.items():
            sums = total.get(task, (0.0, 0.0))
            total[task] = (sums[0] + own, sums[1] + masked)
    return Summary(
        rescalers={task: own / masked if masked > 0 else 1.0 for task, (own, masked) in total.items()}
    )


def merge(base: Tensor, models: Mapping[str, Tensor], options: Options, summary: Summary) -> Tensor:
    """Merge one parameter, elementwise.

    Args:
        base: theta_0.
        models: theta_t by task, of the same shape.
        options: for which task.
        summary: rescalers of the whole model.

    Returns:
        The merged parameter. Inputs are not modified.

    Raises:
        OptionError: the task has no model.
    """
    if options.task is not None and options.task not in models:
        raise OptionError(f"emr: task must be one of {', '.join(sorted(models))}, got {options.task!r}.")
    unified = elect(models[task] - base for task in sorted(models))
    if options.task is None:
        return base + unified
    mask = agreement(models[options.task] - base, unified)
    return base.add(unified.mul_(mask), alpha=summary.rescalers[options.task])


def _magnitudes(piece: Piece) -> dict[str, tuple[float, float]]:
    """Share of a piece in the mean of |tau_t| and of |mask_t unified| over its parameter, by task."""
    import torch

    base, models = piece["base"], piece["models"]
    vectors = {task: models[task] - base for task in sorted(models)}
    unified = elect(vectors.values())
    size = max(1, math.prod(piece.parameter.shape))
    return {
        task: (
            float(vector.abs().sum(dtype=torch.float64)) / size,
            float((unified * agreement(vector, unified)).abs().sum(dtype=torch.float64)) / size,
        )
        for task, vector in vectors.items()
    }
