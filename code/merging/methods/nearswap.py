"""Take the model where it nearly equals the base (NearSwap, alchemonaut/QuartetAnemoi; as in mergekit).

    theta = theta_0 + w (theta_1 - theta_0)          w = min(1, t / |theta_1 - theta_0|)
          = theta_0 + clip(theta_1 - theta_0, -t, t)

Elementwise; both forms are the same, and the second divides by nothing. No number is of a parameter or model.

Special cases, tested: t = 0 is the base; t of at least the largest difference is the model.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from merging.methods._seam import Granularity
from merging.methods._tasks import check_finite

if TYPE_CHECKING:
    from torch import Tensor

NUM_MODELS = (1, 1)


@dataclass(frozen=True, kw_only=True)
class Options:
    """What ``merge`` can be told."""

    t: float = 1e-3
    """Largest difference, >= 0 and in the unit of the weights, up to which an element becomes the model's;
    beyond it, the element moves by t towards the model."""

    def __post_init__(self) -> None:
        check_finite("nearswap: t", self.t, low=0.0)


def granularity(options: Options) -> Granularity:
    """Pieces of a parameter may be merged one after another."""
    return "elements"


def merge(base: Tensor, models: Mapping[str, Tensor], options: Options) -> Tensor:
    """Merge a piece of a parameter, elementwise.

    Args:
        base: theta_0.
        models: theta_1, the only model, by task.
        options: t.

    Returns:
        The merged piece. Inputs are not modified.
    """
    (model,) = models.values()
    return (model - base).clamp_(-options.t, options.t).add_(base)
