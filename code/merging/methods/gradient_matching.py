"""Uncertainty-based gradient matching (Daheim et al., ICLR 2024, arXiv:2310.12808).

    theta = theta_0 + sum_t alpha_t H_bar^-1 (H_0 + H_t) (theta_t - theta_0)
    H_bar = H_0 + sum_t alpha_t H_t          with delta_0 added to H_0

All Hessians are diagonal: products and inverses are elementwise. Computed with ratios, which stay in 0..1 for
alpha_t >= 0 and neither overflow nor underflow:

    theta = theta_0 + (H_0 / H_bar) sum_t alpha_t tau_t + sum_t (alpha_t H_t / H_bar) tau_t

Special cases, tested: all H_t = 0, or delta_0 -> infinity, is task arithmetic; H_0 = 0 and delta_0 -> 0 is
Fisher-weighted averaging with weights alpha_t H_t; H_t = c_t H_0 is task arithmetic with the coefficients
alpha_t (1 + c_t) / (1 + sum_s alpha_s c_s); one task with alpha = 1 is its model.

A negative alpha_t removes a task. Then H_bar may reach or cross zero and the step explodes or flips, so it is
kept at ``kappa`` H_0 or more, and the merge is refused where that happens to more than half of the model.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from merging import kernels
from merging.errors import OptionError
from merging.methods._tasks import check_finite, per_task, values

if TYPE_CHECKING:
    from torch import Tensor

    from merging.methods._seam import Granularity, Piece, Pieces
    from merging.methods._weights import Watch


@dataclass(frozen=True, kw_only=True)
class Options:
    """What ``merge`` can be told."""

    scaling_factor: float | Mapping[str, float] = 1.0
    """alpha: one value for all tasks, or alpha_t by task."""
    delta_0: float = 1e-12
    """Prior precision, > 0, in the unit of the Hessians (summed over training examples)."""
    anchor: Literal["task_arithmetic", "base"] = "task_arithmetic"
    """What the pretraining curvature pulls to. The default is exact for quadratic losses when each task was
    trained with the proximal term of H_0; "base" drops the second term, which is exact without it."""
    kappa: float = 0.1
    """H_bar is kept at kappa H_0 or more; 0..1, matters for negative alpha only."""
    parity: bool = False
    """Compute as the authors' code does: no floor under H_bar, no refusal, and delta_0 may be 0."""

    def __post_init__(self) -> None:
        check_finite("gradient_matching: scaling_factor", self.scaling_factor)
        check_finite("gradient_matching: delta_0", self.delta_0, low=0.0)
        if self.delta_0 == 0 and not self.parity:
            raise OptionError(
                "gradient_matching: delta_0 must be > 0, got 0.0. With 0, a parameter that no task uses "
                "becomes 0/0; pass a small number such as 1e-12."
            )
        if not 0 < self.kappa <= 1:
            raise OptionError(f"gradient_matching: kappa must be > 0 and <= 1, got {self.kappa}.")


@dataclass(frozen=True)
class Summary:
    """Of the whole model."""

    floored_fraction: float
    """Fraction of the elements in which H_bar is raised to kappa H_0; 0..1."""


def summarize(parameters: Pieces, options: Options) -> Summary:
    """Count how often H_bar has to be raised; reads nothing where that cannot happen.

    Raises:
        OptionError: in more than half of the model.
    """
    if options.parity:
        return Summary(floored_fraction=0.0)
    floored = sum(parameters.map(_count_floored))
    fraction = floored / max(sum(piece.parameter.size for piece in parameters), 1)
    if fraction > 0.5:
        raise OptionError(
            f"gradient_matching: scaling_factor {options.scaling_factor} takes away (nearly) all curvature "
            f"of the base in {fraction:.0%} of the model, more than half. Bring it closer to 0, raise "
            f"delta_0 (now {options.delta_0:g}), or pass parity=True to go without this guard."
        )
    return Summary(floored_fraction=fraction)


def _count_floored(piece: Piece) -> int:
    """Elements of a piece in which H_bar is raised."""
    if min(values(piece.options.scaling_factor)) >= 0:
        return 0
    prior = piece["base_hessian"] + piece.options.delta_0
    precision = _precision(prior, piece["hessians"], piece.options)
    return int((precision < piece.options.kappa * prior).sum())


def granularity(options: Options) -> Granularity:
    """Elementwise."""
    return "elements"


def merge(
    base: Tensor,
    models: Mapping[str, Tensor],
    base_hessian: Tensor,
    hessians: Mapping[str, Tensor],
    options: Options,
    watch: Watch | None = None,
) -> Tensor:
    """Merge one parameter, elementwise; all tensors of one shape, any rank.

    Args:
        base: theta_0.
        models: theta_t by task.
        base_hessian: diagonal of H_0, >= 0, summed over the training examples.
        hessians: diagonals of H_t by task, >= 0, summed over the training examples.
        options: scaling factors, delta_0.
        watch: is told the weights of each task's difference to the base.

    Returns:
        The merged parameter. Inputs are not modified.
    """
    import torch

    alpha = per_task("gradient_matching: scaling_factor", options.scaling_factor, models)
    knows_something = options.delta_0 > torch.finfo(base_hessian.dtype).tiny
    if (
        knows_something
        and not options.parity
        and kernels.can_fuse(base, base_hessian, *models.values(), *hessians.values())
    ):
        merged, ranges = kernels.match_gradients(
            base,
            [models[task] for task in alpha],
            base_hessian,
            [hessians[task] for task in alpha],
            list(alpha.values()),
            delta_0=options.delta_0,
            kappa=options.kappa,
            is_anchored=options.anchor == "task_arithmetic",
        )
        for (task, factor), ends in zip(alpha.items(), ranges, strict=True):
            if watch is not None and merged.numel():
                for end in ends:
                    watch(task, end, factor=factor)
        return merged
    prior = base_hessian + options.delta_0
    precision = _precision(prior, hessians, options)
    if not options.parity and min(alpha.values()) < 0:  # else it is at least the prior
        precision = torch.maximum(precision, options.kappa * prior, out=precision)
    anchor = prior / precision if options.anchor == "task_arithmetic" else torch.zeros_like(prior)
    empty: Tensor | None = None
    if not knows_something:  # perhaps nobody may know anything: task arithmetic there
        empty = precision == 0
        anchor.masked_fill_(empty, 1.0 if options.anchor == "task_arithmetic" else 0.0)
    merged = base.clone()
    pull, difference = torch.empty_like(base), torch.empty_like(base)  # once, which stay in the cache
    for task, factor in alpha.items():
        if empty is None:
            torch.addcdiv(anchor, hessians[task], precision, out=pull)
        else:
            torch.div(hessians[task], precision, out=pull).masked_fill_(empty, 0.0).add_(anchor)
        merged.addcmul_(pull, torch.sub(models[task], base, out=difference), value=factor)
        if watch is not None:
            watch(task, pull, factor=factor)
    return merged


def _precision(prior: Tensor, hessians: Mapping[str, Tensor], options: Options) -> Tensor:
    """H_bar = H_0 + sum_t alpha_t H_t, with delta_0 already in ``prior``."""
    alpha = per_task("gradient_matching: scaling_factor", options.scaling_factor, hessians)
    precision = prior.clone()
    for task, factor in alpha.items():
        precision.add_(hessians[task], alpha=factor)
    return precision
