"""DELLA's dropping by magnitude, then task arithmetic (Deep et al., 2024, arXiv:2406.11617).

    q_ij   = density - epsilon + 2 epsilon rank_ij / (n - 1)
    tau'_t = m_t * (theta_t - theta_0) / q_t               m_t: 1 with probability q, else 0
    theta  = theta_0 + lambda sum_t w_t tau'_t

rank_ij, 0..n-1, is that of the magnitude of element j in row i of n elements (the inputs of one output; a
vector is one row), so q is density - epsilon for the smallest and density + epsilon for the largest. The
masks are drawn for each element from (seed, task, name of the parameter, index of the element).

Special cases, tested: density 1 and epsilon 0 is task arithmetic; epsilon 0 is dare_linear.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from merging.methods._della import Measure, RankOptions, dropped_vectors, measure_drop
from merging.methods._sparsify import add_up

if TYPE_CHECKING:
    from torch import Tensor

    from merging.methods._seam import Granularity, Parameter, Pieces


@dataclass(frozen=True, kw_only=True)
class Options(RankOptions):
    """What ``merge`` can be told."""

    def __post_init__(self) -> None:
        self.check("della_linear")


def granularity(options: Options) -> Granularity:
    """Ranks are those in a row."""
    return "rows"


def needs_layout(options: Options) -> bool:
    """A row belongs to one output; of weights that are stored transposed it is a column."""
    return True


def measure(pieces: Pieces, options: Options) -> Measure:
    """Norms of one parameter, for rescale "l1"."""
    return measure_drop(pieces, options)


def merge(
    base: Tensor, models: Mapping[str, Tensor], options: Options, measure: Measure, parameter: Parameter
) -> Tensor:
    """Merge one parameter, or some rows of it.

    Args:
        base: theta_0.
        models: theta_t by task, of the same shape.
        options: density, epsilon, rescaling, weights, seed.
        measure: of this parameter.
        parameter: its name, layout, and where the rows begin.

    Returns:
        The merged parameter. Inputs are not modified.
    """
    return add_up(base, models, options, dropped_vectors(base, models, options, measure, parameter))
