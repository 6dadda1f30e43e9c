"""Model Stock (Jang, Yun and Han, ECCV 2024, arXiv:2403.19522).

    theta = theta_0 + r mean_t(tau_t)          r = N c / (1 + (N - 1) c),  tau_t = theta_t - theta_0

c is the cosine between two task vectors, the mean over pairs for more than two: of the whole parameter, or of
each row (``filter_wise``); per parameter or per row, not per model. Models that agree (c = 1) are averaged,
models that have nothing in common (c = 0) leave the base.

r is kept in 0..1 (``clip_ratio``): a negative cosine would walk away from the models. A task vector of norm 0
says nothing of the angle, and r is 1.

Special cases, tested: equal models return themselves; orthogonal ones the base.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from merging.methods._geometry import differences, gram
from merging.methods._seam import Granularity, Parameter, Pieces

if TYPE_CHECKING:
    from torch import Tensor

    from merging.methods._seam import Report
    from merging.methods._weights import Watch

NUM_MODELS = (2, None)

_SMALLEST_PRODUCT = 1e-6


@dataclass(frozen=True, kw_only=True)
class Options:
    """What ``merge`` can be told."""

    filter_wise: bool = False
    """One angle for each output of a layer (a row of a linear weight, a filter of a convolution)."""
    clip_ratio: bool = True
    """Keep r in 0..1, and take r = 1 where a task vector is 0. Without it, as mergekit: any r, products of
    norms below 1e-6 counted as 1e-6."""
    average_of: Literal["cosines", "angles"] = "cosines"
    """What is averaged over pairs: cosines as in mergekit, or angles as in FusionBench."""


def granularity(options: Options) -> Granularity:
    """Pieces of a parameter may be merged one after another; of whole rows, where a row has an angle."""
    return "rows" if options.filter_wise else "elements"


def needs_layout(options: Options) -> bool:
    """Whether outputs are rows or columns matters where each has an angle."""
    return options.filter_wise


def measure(pieces: Pieces, options: Options) -> float | None:
    """Take r of the parameter; None where each row has its own."""
    import torch

    if options.filter_wise:
        return None
    products = torch.tensor(gram(pieces, differences), dtype=torch.float64)
    return float(_ratio(products, options))


def merge(
    base: Tensor,
    models: Mapping[str, Tensor],
    options: Options,
    measure: float | None,
    parameter: Parameter,
    watch: Watch | None = None,
    report: Report | None = None,
) -> Tensor:
    """Merge a piece of a parameter; of whole rows for ``filter_wise``.

    Args:
        base: theta_0.
        models: theta_t by task, at least two.
        options: whose angle, how far r may go.
        measure: r of the parameter; None for an r for each row.
        parameter: whether its outputs are columns.
        watch: is told r / N, the weight of each task's difference to the base.
        report: is told r of the parameter; nothing where each row has its own.

    Returns:
        The merged piece. Inputs are not modified.
    """
    total, *others = [models[task] - base for task in sorted(models)]
    if measure is not None:
        ratio: Tensor | float = measure
    else:
        ratio = _row_ratios([total, *others], options, transposed=parameter.transposed)
    if watch is not None:
        for task in sorted(models):
            watch(task, ratio, factor=1.0 / len(models))
    if report is not None and measure is not None:
        report("ratio", measure)
    for delta in others:
        total.add_(delta)
    return total.mul_(ratio / len(models)).add_(base)


def _row_ratios(deltas: list[Tensor], options: Options, *, transposed: bool) -> Tensor:
    """r of each row, in a shape that broadcasts with the deltas; a vector is one row."""
    import torch

    shape = deltas[0].shape
    if len(shape) < 2:
        rows = torch.stack([delta.reshape(1, -1) for delta in deltas], dim=1)
    elif transposed:
        rows = torch.stack([delta.T for delta in deltas], dim=1)
    else:
        rows = torch.stack([delta.reshape(shape[0], -1) for delta in deltas], dim=1)
    ratios = _ratio(torch.bmm(rows, rows.mT).double(), options).to(rows)
    if len(shape) < 2:
        return ratios.reshape([1] * len(shape))
    return ratios.reshape(1, -1) if transposed else ratios.reshape(-1, *[1] * (len(shape) - 1))


def _ratio(products: Tensor, options: Options) -> Tensor:
    """r from Gram matrices of task vectors, (..., T, T) -> (...)."""
    import torch

    num_models = products.shape[-1]
    lengths = products.diagonal(dim1=-2, dim2=-1).clamp(min=0.0).sqrt()
    divisors = lengths.unsqueeze(-1) * lengths.unsqueeze(-2)
    is_empty = (lengths == 0).any(-1)
    if options.clip_ratio:
        divisors = divisors.masked_fill(divisors == 0, 1.0)
    else:
        divisors = divisors.clamp(min=_SMALLEST_PRODUCT)
    row, column = torch.triu_indices(num_models, num_models, offset=1, device=products.device)
    cosines = (products / divisors)[..., row, column].clamp(-1.0, 1.0)
    is_angle = options.average_of == "angles"
    cosine = cosines.arccos().mean(-1).cos() if is_angle else cosines.mean(-1)
    ratio = num_models * cosine / (1.0 + (num_models - 1) * cosine)
    if not options.clip_ratio:
        return ratio
    return ratio.masked_fill(cosine <= 0, 0.0).clamp(0.0, 1.0).masked_fill(is_empty, 1.0)
