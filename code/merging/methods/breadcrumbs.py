"""Model Breadcrumbs (Davari and Belilovsky, ECCV 2024, arXiv:2312.06795).

    tau'_t = mask_t * (theta_t - theta_0)
    theta  = theta_0 + lambda sum_t w_t tau'_t

With n elements in a parameter, the int(gamma n) of largest magnitude are masked out (outliers), the next
int(density n) are kept, and the rest is masked out; of equal magnitudes, earlier elements count as larger.
Numbers are those of one parameter.

Special cases, tested: density 1 is task arithmetic; a parameter with fewer than 1/gamma elements has no
outliers and loses only its smallest elements (mergekit drops all of it, as ``parity`` does).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from merging.methods._breadcrumbs import CrumbOptions, Measure, crumbs, measure_crumbs
from merging.methods._sparsify import add_up

if TYPE_CHECKING:
    from torch import Tensor

    from merging.methods._seam import Granularity, Parameter, Pieces


@dataclass(frozen=True, kw_only=True)
class Options(CrumbOptions):
    """What ``merge`` can be told."""

    def __post_init__(self) -> None:
        self.check("breadcrumbs")


def granularity(options: Options) -> Granularity:
    """Thresholds are taken before; then elements stand alone."""
    return "elements"


def measure(pieces: Pieces, options: Options) -> Measure:
    """Thresholds, and norms where they are asked for, of one parameter."""
    return measure_crumbs(pieces, options)


def merge(
    base: Tensor, models: Mapping[str, Tensor], options: Options, measure: Measure, parameter: Parameter
) -> Tensor:
    """Merge one parameter, or a piece of it.

    Args:
        base: theta_0.
        models: theta_t by task, of the same shape.
        options: weights.
        measure: of this parameter.
        parameter: where the piece begins.

    Returns:
        The merged parameter. Inputs are not modified.
    """
    return add_up(base, models, options, crumbs(base, models, measure, parameter))
