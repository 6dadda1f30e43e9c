"""Model soup (Wortsman et al., ICML 2022, arXiv:2203.05482).

    theta = sum_{t in members} theta_t / |members|

The base model takes no part. All models are the uniform soup; a greedy soup is the same with the members that
a search has kept. Special case, tested: one member is that model. Nothing is per parameter or per model.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from merging.errors import OptionError

if TYPE_CHECKING:
    from torch import Tensor

    from merging.methods._seam import Granularity
    from merging.methods._weights import Watch


@dataclass(frozen=True, kw_only=True)
class Options:
    """What ``merge`` can be told."""

    members: tuple[str, ...] | None = None
    """Tasks whose models go into the soup; by default all."""

    def __post_init__(self) -> None:
        if self.members is None:
            return
        if not self.members:
            raise OptionError("soup: members must name at least one model, got none. Leave it out for all.")
        if len(set(self.members)) < len(self.members):
            raise OptionError(f"soup: members must name each model once, got {list(self.members)}.")


def granularity(options: Options) -> Granularity:
    """Pieces of a parameter may be merged one after another."""
    return "elements"


def merge(models: Mapping[str, Tensor], options: Options, watch: Watch | None = None) -> Tensor:
    """Merge one parameter, elementwise.

    Args:
        models: theta_t by task, of one shape.
        options: the members.
        watch: is told the weight of each task's model.

    Returns:
        The merged parameter. Inputs are not modified.

    Raises:
        OptionError: a member that is no model.
    """
    members = sorted(models if options.members is None else options.members)
    strangers = sorted(set(members) - set(models))
    if strangers:
        raise OptionError(f"soup: members {strangers} are no models; the models are {sorted(models)}.")
    merged = models[members[0]].clone()
    for task in members[1:]:
        merged.add_(models[task])
    if watch is not None:
        for task in sorted(models):
            watch(task, 1 / len(members) if task in members else 0.0)
    return merged.div_(len(members))
