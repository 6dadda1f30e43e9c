"""What the two Breadcrumbs methods share: mask out the largest and the smallest elements of task vectors."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from merging.errors import OptionError
from merging.methods._sparsify import Combination, check_share, l1_scales, tasks_of
from merging.methods._tasks import per_task, values
from merging.methods._thresholds import EVERYTHING, NOTHING, Cut, largest, num_elements

if TYPE_CHECKING:
    from torch import Tensor

    from merging.methods._seam import Parameter, Pieces


@dataclass(frozen=True, kw_only=True)
class CrumbOptions(Combination):
    """What is masked out."""

    density: float | Mapping[str, float] = 0.9
    """Share of the elements of a parameter that is kept; > 0 and <= 1, one for all tasks or by task. With 1
    nothing is masked, outliers neither."""
    gamma: float | Mapping[str, float] = 0.01
    """Share of the elements of largest magnitude that is masked out; fewer if density + gamma > 1."""
    rescale: Literal["none", "l1"] = "none"
    """"l1" gives what is kept the L1 norm that the parameter's task vector had before."""
    parity: bool = False
    """Keep nothing of a parameter that has no outliers, as mergekit does by mistake."""

    def check(self, owner: str) -> None:
        """Refuse values that are out of range."""
        super().check(owner)
        check_share(f"{owner}: density", self.density)
        for number in values(self.gamma):
            if not 0 <= number < 1:
                raise OptionError(
                    f"{owner}: gamma must be >= 0 and < 1, got {number}. It is a fraction, not a percentage."
                )


@dataclass(frozen=True)
class Measure:
    """Of one parameter."""

    outliers: Mapping[str, Cut]
    """The largest elements, which are masked out, by task."""
    kept: Mapping[str, Cut]
    """Outliers and what is kept; the rest is masked out."""
    scales: Mapping[str, float]
    """L1 norm before masking divided by that after, by task; empty without rescaling."""


def measure_crumbs(pieces: Pieces, options: CrumbOptions) -> Measure:
    """Both thresholds of one parameter, by task, and its norms."""
    total = num_elements(pieces)
    tasks = tasks_of(pieces)
    gammas = per_task("gamma", options.gamma, tasks)
    counts = {
        task: _num_outliers_and_kept(total, density, gammas[task], parity=options.parity)
        for task, density in per_task("density", options.density, tasks).items()
    }
    cuts = largest(pieces, {task: its for task, its in counts.items() if its is not None})
    outliers = {task: cuts[task][0] if task in cuts else NOTHING for task in tasks}
    kept = {task: cuts[task][1] if task in cuts else EVERYTHING for task in tasks}
    scales: dict[str, float] = {}
    if options.rescale == "l1":
        scales = l1_scales(
            pieces,
            lambda task, vector, where: _mask(vector, outliers[task], kept[task], where.start),
        )
    return Measure(outliers, kept, scales)


def crumbs(
    base: Tensor, models: Mapping[str, Tensor], measure: Measure, parameter: Parameter
) -> Callable[[str], Tensor]:
    """What gives the masked and rescaled task vector (or a piece of it) of a task."""

    def vector_of(task: str) -> Tensor:
        vector = models[task] - base
        _mask(vector, measure.outliers[task], measure.kept[task], parameter.start)
        return vector.mul_(measure.scales[task]) if measure.scales else vector

    return vector_of


def _num_outliers_and_kept(
    total: int, density: float, gamma: float, *, parity: bool
) -> tuple[int, int] | None:
    """How many of the largest elements are outliers, and how many are outliers or kept; None: no mask."""
    if density == 1:
        return None
    num_kept, num_outliers = int(density * total), int(gamma * total)
    num_outliers -= max(num_outliers + num_kept - total, 0)
    return num_outliers, 0 if parity and not num_outliers else num_outliers + num_kept


def _mask(vector: Tensor, outliers: Cut, kept: Cut, start: int) -> Tensor:
    kept.keep_(vector, start)
    return outliers.drop_(vector, start)
