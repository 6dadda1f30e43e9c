"""DARE, drop and rescale, then agreement on signs (Yu et al., ICML 2024, arXiv:2311.03099).

    tau'_t = m_t * (theta_t - theta_0) / (1 - p)          m_t: 0 with probability p = 1 - density, else 1
    s      = sign(sum_t w_t tau'_t)                        positive where the sum is 0
    theta  = theta_0 + lambda sum_t [sign(w_t tau'_t) = s] w_t tau'_t

There is no trimming; with ``normalize`` the sum is divided by the weights of the tasks that agree. The masks
are drawn for each element from (seed, task, name of the parameter, index of the element); thresholds and
norms are those of one parameter.

Special cases, tested: density 1 is TIES without trimming (merge_function "sum", flavour "per_tensor").
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from merging.methods._dare import DropOptions, Measure, dropped_vectors, kept, measure_drop
from merging.methods._sparsify import agree

if TYPE_CHECKING:
    from torch import Tensor

    from merging.methods._seam import Granularity, Parameter, Pieces


@dataclass(frozen=True, kw_only=True)
class Options(DropOptions):
    """What ``merge`` can be told."""

    def __post_init__(self) -> None:
        self.check("dare_ties")


def granularity(options: Options) -> Granularity:
    """A draw depends on the place of an element alone."""
    return "elements"


def measure(pieces: Pieces, options: Options) -> Measure:
    """Thresholds (strategy "magnitude") and norms (rescale "l1") of one parameter."""
    return measure_drop(pieces, options)


def merge(
    base: Tensor, models: Mapping[str, Tensor], options: Options, measure: Measure, parameter: Parameter
) -> Tensor:
    """Merge one parameter, or a piece of it.

    Args:
        base: theta_0.
        models: theta_t by task, of the same shape.
        options: density, rescaling, weights, seed.
        measure: of this parameter.
        parameter: its name and where the piece begins, for the draws.

    Returns:
        The merged parameter. Inputs are not modified.
    """
    vector_of = dropped_vectors(base, models, options, measure, parameter)
    return agree(base, models, options, vector_of, kept(models, options, measure, parameter))
