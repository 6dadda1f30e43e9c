"""Fisher-weighted averaging (Matena and Raffel, NeurIPS 2022, arXiv:2111.09832).

    theta = sum_t w_t theta_t / sum_t w_t          w_t = c_t (F_t + floor_t) / norm_t

F_t is the diagonal Fisher of model t, products are elementwise, the base model takes no part. The published
variants are settings of the options: mmatena (floor_kind="absolute", normalize="model"; a floor of 0 for all
but the target lets the target win where nobody knows anything), dataless-model-merging (floor_kind="added"),
MaTS (floor_kind="absolute", floor=1e-8).

Special cases, tested: equal Fishers give the weighted average, and so do elements where all w_t are 0.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from merging.errors import OptionError
from merging.methods._tasks import check_finite, per_task

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class Options:
    """What ``merge`` can be told."""

    weights: Mapping[str, float] | None = None
    """c_t by task, >= 0; by default all alike. Only their ratios matter."""
    floor: float | Mapping[str, float] = 1e-6
    """What is known at least, one value or one by task, >= 0; its unit is ``floor_kind``."""
    floor_kind: Literal["relative", "absolute", "added"] = "relative"
    """relative: floor times the mean of the tensor's F_t is added; absolute: the larger of floor and F_t;
    added: floor is added to F_t (and to the norm)."""
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
    """Of the whole model."""

    norms: Mapping[str, float] | None
    """L2 norm of each task's Fisher over all merged parameters; only with normalize="model"."""


def summarize(parameters: Iterable[Mapping[str, Any]], options: Options) -> Summary:
    """Take the norms of the whole Fishers; reads nothing where they are not asked for."""
    if options.normalize != "model":
        return Summary(norms=None)
    squares: dict[str, float] = {}
    for parameter in parameters:
        for task, hessian in parameter["hessians"].items():
            squares[task] = squares.get(task, 0.0) + float(hessian.double().square().sum())
    return Summary(norms={task: square**0.5 for task, square in squares.items()})


def merge(
    models: Mapping[str, Tensor], hessians: Mapping[str, Tensor], options: Options, summary: Summary
) -> Tensor:
    """Merge one parameter, elementwise but for the mean or norm of F_t; all tensors of one shape, any rank.

    Args:
        models: theta_t by task.
        hessians: F_t by task, >= 0.
        options: weights, floor, normalisation.
        summary: the norms of the whole Fishers.

    Returns:
        The merged parameter. Inputs are not modified.
    """
    import torch

    coefficients = per_task("fisher: weights", 1.0 if options.weights is None else options.weights, models)
    floors = per_task("fisher: floor", options.floor, models)
    weights = {}
    for task, coefficient in coefficients.items():
        scale = coefficient * _inverse_norm(task, hessians[task], floors[task], options, summary)
        weights[task] = scale * _floored(hessians[task], floors[task], options.floor_kind)
    largest = torch.stack(list(weights.values())).amax(0)  # ratios to it neither overflow nor underflow
    empty = largest == 0
    shares = {
        task: (weight / largest).masked_fill(empty, coefficients[task]) for task, weight in weights.items()
    }
    total = torch.stack(list(shares.values())).sum(0)
    merged = torch.zeros_like(total)
    for task, share in shares.items():
        merged += share / total * models[task]
    return merged


def _floored(hessian: Tensor, floor: float, kind: str) -> Tensor:
    """F_t with its floor."""
    if kind == "relative":
        return hessian + floor * hessian.mean()
    return hessian.clamp(min=floor) if kind == "absolute" else hessian + floor


def _inverse_norm(task: str, hessian: Tensor, floor: float, options: Options, summary: Summary) -> float:
    """1 / norm_t; 0 for a Fisher that is zero everywhere, which says nothing."""
    if options.normalize == "none":
        return 1.0
    norm = float(hessian.double().norm()) if summary.norms is None else summary.norms[task]
    if options.floor_kind == "added":
        norm += floor
    return 1.0 / norm if norm > 0 else 0.0
