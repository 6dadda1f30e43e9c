"""One model as it is, perhaps scaled: the method of stacked ("frankenmerged") layers, as in mergekit.

    theta = scale theta_1

Special case, tested: scale = 1 returns the model bit for bit.
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

    scale: float = 1.0
    """By what the parameter is multiplied; 0 for the last projection of a copied block lets it do nothing."""

    def __post_init__(self) -> None:
        check_finite("passthrough: scale", self.scale)


def granularity(options: Options) -> Granularity:
    """Pieces of a parameter may be merged one after another."""
    return "elements"


def merge(models: Mapping[str, Tensor], options: Options) -> Tensor:
    """Scale a piece of a parameter.

    Args:
        models: theta_1, the only model, by task.
        options: scale.

    Returns:
        The scaled piece. Inputs are not modified.
    """
    (model,) = models.values()
    return model * options.scale
