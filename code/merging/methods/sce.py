"""SCE: select, calculate, erase (FuseChat; Wan et al., 2024, arXiv:2408.07990).

    theta = theta_0 + sum_t w_t m_t tau_t / sum_t w_t m_t          tau_t = theta_t - theta_0

Select: of each tau_t, only the elements that vary most over the tasks are kept: int(``select_topk`` n) of the
n whose (biased) variance is not 0; of equal ones, the first. Calculate: w_t = mean(tau_t^2), divided by the
sum over the tasks. Erase: m_t is 1 where tau_t has the sign of sum_s tau_s (0 counts as positive). Selection
and weights are per parameter, not per model.

Special cases, tested: one model returns itself; task vectors that agree are averaged with their mean squares.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from merging.errors import OptionError
from merging.methods._geometry import differences
from merging.methods._seam import Granularity, Parameter, Piece, Pieces

if TYPE_CHECKING:
    from torch import Tensor

    from merging.methods._seam import Report

_FLOOR = 1e-6  # mergekit's, under the sum of all w_t and under each divisor


@dataclass(frozen=True, kw_only=True)
class Options:
    """What ``merge`` can be told."""

    select_topk: float = 1.0
    """Share of the varying elements that are kept; 0..1."""
    parity: bool = False
    """Compute as mergekit does: tasks are alike where all mean squares sum to less than 1e-6, and divisors
    are at least 1e-6, which shrinks small task vectors."""

    def __post_init__(self) -> None:
        if not 0 <= self.select_topk <= 1:
            raise OptionError(f"sce: select_topk must be in 0..1, got {self.select_topk}.")


@dataclass(frozen=True)
class Selection:
    """Of one parameter."""

    weights: Sequence[float]
    """w_t, sorted by task; their sum is 1."""
    threshold: float | None
    """Smallest variance that is kept; None keeps everything."""
    last: int
    """Of the elements whose variance is the threshold, the last that is kept."""


def granularity(options: Options) -> Granularity:
    """Pieces of a parameter may be merged one after another."""
    return "elements"


def measure(pieces: Pieces, options: Options) -> Selection:
    """Take threshold and weights; keeps one number for each element meanwhile, if there is a selection."""
    threshold, last = (None, 0) if options.select_topk == 1 else _threshold(pieces, options)
    selection = Selection(weights=(), threshold=threshold, last=last)
    sums = pieces.map(lambda piece: _squares(piece, selection))
    num_elements = sum(num for _, num in sums) or 1
    means = [sum(column) / num_elements for column in zip(*(squares for squares, _ in sums), strict=True)]
    total = sum(means)
    is_alike = total < _FLOOR if options.parity else total == 0
    weights = [1.0 / len(means) if is_alike else mean / total for mean in means]
    return Selection(weights=weights, threshold=threshold, last=last)


def merge(
    base: Tensor,
    models: Mapping[str, Tensor],
    options: Options,
    measure: Selection,
    parameter: Parameter,
    report: Report | None = None,
) -> Tensor:
    """Merge a piece of a parameter, elementwise.

    Args:
        base: theta_0.
        models: theta_t by task.
        options: whether to floor divisors; selection and weights are in ``measure``.
        measure: selection and weights of the whole parameter.
        parameter: where in it this piece is.
        report: is told w_t of each task.

    Returns:
        The merged piece. Inputs are not modified.
    """
    import torch

    deltas = _selected([models[task] - base for task in sorted(models)], measure, parameter.start)
    total = deltas[0].clone()
    for delta in deltas[1:]:
        total.add_(delta)
    is_positive = total >= 0
    divisor, merged = torch.zeros_like(total), torch.zeros_like(total)
    for task, delta, weight in zip(sorted(models), deltas, measure.weights, strict=True):
        agrees = torch.where(is_positive, delta > 0, delta < 0).to(delta.dtype)
        divisor.add_(agrees, alpha=weight)
        merged.addcmul_(agrees, delta, value=weight)
        if report is not None:
            report(f"weight/{task}", weight)
    if options.parity:
        divisor.clamp_(min=_FLOOR)
    else:
        divisor.masked_fill_(divisor == 0, 1.0)  # nobody agrees: there is nothing to divide
    return merged.div_(divisor).add_(base)


def _variance(deltas: Sequence[Tensor]) -> Tensor:
    """Biased, over the tasks; exactly 0 where all are equal, since the first is subtracted before."""
    import torch

    shifted = torch.stack([delta - deltas[0] for delta in deltas])
    return shifted.sub_(shifted.mean(0)).square_().mean(0)


def _threshold(pieces: Pieces, options: Options) -> tuple[float, int]:
    """Smallest variance that is kept, and the last element with it that is."""
    import torch

    variance = torch.cat(pieces.map(lambda piece: _variance(differences(piece)).reshape(-1)))
    num_kept = int(int(variance.count_nonzero()) * options.select_topk)
    if not num_kept:
        return float("inf"), -1
    threshold = float(variance.kthvalue(len(variance) - num_kept + 1).values)
    equal = (variance == threshold).nonzero().squeeze(1)
    num_equal = num_kept - int((variance > threshold).count_nonzero())
    return threshold, int(equal[num_equal - 1])


def _selected(deltas: Sequence[Tensor], selection: Selection, start: int) -> Sequence[Tensor]:
    """Task vectors, 0 where not selected."""
    import torch

    if selection.threshold is None:
        return deltas
    variance = _variance(deltas)
    index = torch.arange(start, start + variance.numel(), device=variance.device).reshape(variance.shape)
    is_kept = (variance > selection.threshold) | (
        (variance == selection.threshold) & (index <= selection.last)
    )
    return [delta * is_kept for delta in deltas]


def _squares(piece: Piece, selection: Selection) -> tuple[list[float], int]:
    """Sum of squares of each selected task vector of a piece, and how many elements it has."""
    import torch

    deltas = _selected(differences(piece), selection, piece.parameter.start)
    sums = [float(torch.linalg.vector_norm(delta, dtype=torch.float64)) ** 2 for delta in deltas]
    return sums, deltas[0].numel()
