"""Fisher-weighted averaging (Matena and Raffel, NeurIPS 2022, arXiv:2111.09832).

    theta = sum_t w_t theta_t / sum_t w_t          w_t = c_t (F_t + floor_t) / norm_t

F_t is the diagonal Fisher of model t, products are elementwise, the base model takes no part. The published
variants are settings of the options: mmatena (floor_kind="absolute", normalize="model"; a floor of 0 for all
but the target lets the target win where nobody knows anything), dataless-model-merging (floor_kind="added"),
MaTS (floor_kind="absolute", floor=1e-8).

Special cases, tested: equal Fishers give the weighted average, and so do elements where all w_t are 0.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from merging.errors import OptionError
from merging.methods._tasks import check_finite, per_task

if TYPE_CHECKING:
    from torch import Tensor

    from merging.methods._seam import Granularity, Piece, Pieces
    from merging.methods._weights import Watch


@dataclass(frozen=True, kw_only=True)
class Options:
    """What ``merge`` can be told."""

    weights: Mapping[str, float] | None = None
    """c_t by task, >= 0; by default all alike. Only their ratios matter."""
    floor: float | Mapping[str, float] = 1e-6
    """What is known at least, one value or one by task, >= 0; its unit is ``floor_kind``."""
    floor_kind: Literal["relative", "absolute", "added"] = "relative"
    """relative: floor times the mean of F_t over the whole model is added; absolute: the larger of floor and
    F_t; added: floor is added to F_t (and to the norm)."""
    normalize: Literal["none", "tensor", "model"] = "none"
    """Divide by the L2 norm of F_t, of this tensor or of the whole model; taken before the floor."""

    def __post_init__(self) -> None:
        check_finite("fisher: floor", self.floor, low=0.0)
        if self.weights is not None:
            check_finite("fisher: weights", self.weights, low=0.0)
            if not sum(self.weights.values()) > 0:
                raise OptionError(f"fisher: weights must not all be 0, got {dict(self.weights)}.")


@dataclass(frozen=True)
class Summary:
    """Of the whole model, by task; all merged parameters count. None: not asked for."""

    means: Mapping[str, float] | None
    """Mean of the Fisher; for a relative floor."""
    norms: Mapping[str, float] | None
    """L2 norm of the Fisher; for normalize="model"."""


def summarize(parameters: Pieces, options: Options) -> Summary:
    """Take means and norms of the whole Fishers; reads nothing where they are not asked for."""
    import torch

    wants_means, wants_norms = options.floor_kind == "relative", options.normalize == "model"
    if not (wants_means or wants_norms):
        return Summary(means=None, norms=None)

    def measure_piece(piece: Piece) -> dict[str, tuple[float, float]]:
        return {
            task: (
                float(hessian.sum(dtype=torch.float64)),
                float(torch.linalg.vector_norm(hessian, dtype=torch.float64)) ** 2,
            )
            for task, hessian in piece["hessians"].items()
        }

    found = parameters.map(measure_piece)
    tasks = sorted({task for piece in found for task in piece})
    sums = {task: math.fsum(piece[task][0] for piece in found) for task in tasks}
    squares = {task: math.fsum(piece[task][1] for piece in found) for task in tasks}
    size = sum(piece.parameter.size for piece in parameters)
    return Summary(
        means={task: total / max(size, 1) for task, total in sums.items()} if wants_means else None,
        norms={task: square**0.5 for task, square in squares.items()} if wants_norms else None,
    )


def granularity(options: Options) -> Granularity:
    """Elementwise, but for the norm of a tensor."""
    return "parameter" if options.normalize == "tensor" else "elements"


def merge(
    models: Mapping[str, Tensor],
    hessians: Mapping[str, Tensor],
    options: Options,
    summary: Summary,
    watch: Watch | None = None,
) -> Tensor:
    """Merge one parameter, elementwise but for the norm of a tensor; all tensors of one shape, any rank.

    Args:
        models: theta_t by task.
        hessians: F_t by task, >= 0.
        options: weights, floor, normalisation.
        summary: means and norms of the whole Fishers.
        watch: is told the weights of each task's model.

    Returns:
        The merged parameter. Inputs are not modified.
    """
    import torch

    coefficients = per_task("fisher: weights", 1.0 if options.weights is None else options.weights, models)
    floors = per_task("fisher: floor", options.floor, models)
    weights = {}
    for task, coefficient in coefficients.items():
        floor = floors[task] if summary.means is None else floors[task] * summary.means[task]
        scale = coefficient * _inverse_norm(task, hessians[task], floor, options, summary)
        absolute = options.floor_kind == "absolute"
        floored = hessians[task].clamp(min=floor) if absolute else hessians[task] + floor
        weights[task] = floored.mul_(scale)
    largest = functools.reduce(torch.maximum, weights.values())
    empty = largest == 0
    total, merged = torch.zeros_like(largest), torch.zeros_like(largest)
    for task, weight in weights.items():
        share = weight.div_(largest).masked_fill_(empty, coefficients[task])  # in 0..1: no under- or overflow
        total += share
        merged.addcmul_(share, models[task])
    if watch is not None:
        for task, share in weights.items():
            watch(task, share.div_(total))
    return merged.div_(total)


def _inverse_norm(task: str, hessian: Tensor, floor: float, options: Options, summary: Summary) -> float:
    """1 / norm_t; 0 for a Fisher that is zero everywhere, which says nothing."""
    if options.normalize == "none":
        return 1.0
    norm = float(hessian.double().norm()) if summary.norms is None else summary.norms[task]
    if options.floor_kind == "added":
        norm += floor
    return 1.0 / norm if norm > 0 else 0.0
