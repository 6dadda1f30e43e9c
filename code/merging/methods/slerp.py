"""Spherical linear interpolation from the base to one model (SLERP; Shoemake, SIGGRAPH 1985).

    theta = [sin((1 - t) a) theta_0 + sin(t a) theta_1] / sin a          cos a = <theta_0, theta_1> / norms

The angle a is that of the whole parameter, flattened; it is per parameter, not per model. Where the cosine is
beyond +-``dot_threshold`` the interpolation is linear.

Special cases, tested: t = 0 is the base, t = 1 the model; halfway between vectors of one norm is on their
sphere; colinear vectors are interpolated linearly. A parameter of norm <= 1e-8 has no direction and counts as
orthogonal, as in mergekit.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from merging.errors import OptionError
from merging.methods._geometry import gram, norms, spherical, tensors
from merging.methods._seam import Granularity, Piece, Pieces
from merging.methods._tasks import check_finite

if TYPE_CHECKING:
    from torch import Tensor

    from merging.methods._seam import Report
    from merging.methods._weights import Watch

NUM_MODELS = (1, 1)

_NO_DIRECTION = 1e-8


@dataclass(frozen=True, kw_only=True)
class Options:
    """What ``merge`` can be told."""

    t: float = 0.5
    """Where on the arc: 0 is the base, 1 the model."""
    dot_threshold: float = 0.9995
    """Cosine beyond which, on either side, the interpolation is linear; 0..1."""

    def __post_init__(self) -> None:
        check_finite("slerp: t", self.t)
        if not 0 <= self.dot_threshold <= 1:
            raise OptionError(f"slerp: dot_threshold must be in 0..1, got {self.dot_threshold}.")


@dataclass(frozen=True)
class Arc:
    """Of one parameter."""

    cosine: float
    """Of the angle between base and model."""
    base_weight: float
    """By what the base is multiplied."""
    model_weight: float
    """By what the model is multiplied."""


def granularity(options: Options) -> Granularity:
    """Pieces of a parameter may be merged one after another."""
    return "elements"


def measure(pieces: Pieces, options: Options) -> Arc:
    """Take the angle between base and model, and with it their weights."""
    import torch

    def ends(piece: Piece) -> list[Tensor]:
        return [piece["base"], *tensors(piece)]

    products = gram(pieces, ends)
    divisor = 1.0
    for norm in norms(products):
        divisor *= norm if norm > _NO_DIRECTION else 1.0
    cosine = min(max(products[0][1] / divisor, -1.0), 1.0)
    exact = torch.tensor(cosine, dtype=torch.float64)
    first, second = spherical(options.t, exact, exact.abs() > options.dot_threshold)
    return Arc(cosine=cosine, base_weight=float(first), model_weight=float(second))


def merge(
    base: Tensor,
    models: Mapping[str, Tensor],
    options: Options,
    measure: Arc,
    watch: Watch | None = None,
    report: Report | None = None,
) -> Tensor:
    """Merge a piece of a parameter, elementwise.

    Args:
        base: theta_0.
        models: theta_1, the only model, by task.
        options: t; its effect is in ``measure``.
        measure: weights of base and model in this parameter.
        watch: is told the weight of the model.
        report: is told the cosine.

    Returns:
        The merged piece. Inputs are not modified.
    """
    ((task, model),) = models.items()
    if watch is not None:
        watch(task, measure.model_weight)
    if report is not None:
        report("cosine", measure.cosine)
    return (base * measure.base_weight).add_(model, alpha=measure.model_weight)
