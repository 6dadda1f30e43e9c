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
from merging.methods._quantiles import collect, largest, numbers_of
from merging.methods._seam import Granularity, Parameter, Piece, Pieces
from merging.methods._thresholds import Cut

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
    cut: Cut | None
    """Which variances are kept; None keeps everything."""


def granularity(options: Options) -> Granularity:
    """Pieces of a parameter may be merged one after another."""
    return "elements"


def measure(pieces: Pieces, options: Options) -> Selection:
    """Take cut and weights; keeps one number for each element meanwhile, if there is a selection."""
    import torch

    cut = None
    if options.select_topk < 1:
        variances, counts = collect(pieces, _variance_and_count)
        cut = largest(pieces, variances, int(sum(counts) * options.select_topk))

    def squares(piece: Piece) -> list[float]:
        deltas = differences(piece)
        if cut is not None:
            deltas = _select(deltas, numbers_of(variances, piece).clone(), cut, piece.parameter.start)
        return [float(torch.linalg.vector_norm(delta, dtype=torch.float64)) ** 2 for delta in deltas]

    num_elements = max(sum(piece.parameter.size for piece in pieces), 1)
    means = [sum(column) / num_elements for column in zip(*pieces.map(squares), strict=True)]
    total = sum(means)
    is_alike = total < _FLOOR if options.parity else total == 0
    weights = [1.0 / len(means) if is_alike else mean / total for mean in means]
    return Selection(weights=weights, cut=cut)


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

    deltas = [models[task] - base for task in sorted(models)]
    if measure.cut is not None:
        deltas = _select(deltas, _variance(deltas), measure.cut, parameter.start)
    sign = deltas[0].clone()
    for delta in deltas[1:]:
        sign.add_(delta)
    sign.ge_(0.0).mul_(2.0).sub_(1.0)
    divisor, merged = torch.zeros_like(sign), torch.zeros_like(sign)
    for task, delta, weight in zip(sorted(models), deltas, measure.weights, strict=True):
        agreeing = delta.mul_(sign).relu_()  # magnitudes
        merged.add_(agreeing, alpha=weight)
        divisor.add_(agreeing.sign_(), alpha=weight)
        if report is not None:
            report(f"weight/{task}", weight)
    if options.parity:
        divisor.clamp_(min=_FLOOR)
    else:
        divisor.clamp_(min=torch.finfo(divisor.dtype).tiny)  # where nobody agrees, 0 is divided
    return merged.div_(divisor).mul_(sign).add_(base)


def _variance(deltas: Sequence[Tensor]) -> Tensor:
    """Biased, over the tasks; exactly 0 where all are equal, since the first is subtracted before."""
    import torch

    total, squares = torch.zeros_like(deltas[0]), torch.zeros_like(deltas[0])
    for delta in deltas[1:]:
        shifted = delta - deltas[0]
        total.add_(shifted)
        squares.addcmul_(shifted, shifted)
    num_tasks = len(deltas)
    return squares.addcmul_(total, total, value=-1.0 / num_tasks).div_(num_tasks).relu_()


def _variance_and_count(piece: Piece) -> tuple[Tensor, int]:
    """Variances of a piece, and how many are not 0."""
    variance = _variance(differences(piece))
    return variance, int(variance.count_nonzero())


def _select(deltas: list[Tensor], variance: Tensor, cut: Cut, start: int) -> list[Tensor]:
    """Zero in place what is not selected; uses up ``variance``."""
    is_kept = cut.keep_(variance, start).sign_()
    return [delta.mul_(is_kept) for delta in deltas]
