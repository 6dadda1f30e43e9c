"""What the two DARE methods share: drop elements of task vectors at random, or the smallest, and rescale."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import TYPE_CHECKING, Literal

from merging.kernels import Kept
from merging.methods._random import bernoulli, draw
from merging.methods._sparsify import Combination, check_share, l1_scales, tasks_of, value_of
from merging.methods._tasks import per_task
from merging.methods._thresholds import Cut, largest, num_elements
from merging.options import check_seed

if TYPE_CHECKING:
    from torch import Tensor

    from merging.methods._seam import Parameter, Pieces


@dataclass(frozen=True, kw_only=True)
class DropOptions(Combination):
    """What is dropped, and how the rest is rescaled."""

    density: float | Mapping[str, float] = 0.1
    """1 - p, the share of the elements of a task vector that is kept; 0..1, one for all tasks or by task. To
    drop from some parameters only, give the others 1.0 by name."""
    rescale: Literal["inverse_keep", "l1", "none"] = "inverse_keep"
    """Divide what is kept by the density, so that its expectation is the task vector; or give it the L1 norm
    of the parameter's task vector (mergekit); or leave it."""
    strategy: Literal["random", "magnitude"] = "random"
    """Drop at random, or the int(p n) elements of a parameter of smallest magnitude."""
    drop_from: Literal["task_vector", "model"] = "task_vector"
    """What loses elements and is rescaled; with "model", the base is taken off afterwards."""
    seed: int = 0
    """Of the random numbers, which also depend on the task's name and on the place of the element."""

    def check(self, owner: str) -> None:
        """Refuse values that are out of range."""
        super().check(owner)
        check_share(f"{owner}: density", self.density, zero=True)
        check_seed(self.seed, owner=owner)


@dataclass(frozen=True)
class Measure:
    """Of one parameter."""

    cuts: Mapping[str, Cut]
    """What is kept by magnitude, by task; empty where elements are dropped at random."""
    scales: Mapping[str, float]
    """L1 norm before dropping divided by that after, by task; empty for other ways to rescale."""


def measure_drop(pieces: Pieces, options: DropOptions) -> Measure:
    """Thresholds and norms of one parameter; reads nothing where neither is asked for."""
    cuts: dict[str, Cut] = {}
    if options.strategy == "magnitude":
        total = num_elements(pieces)
        counts = {
            task: [total - int(total * _drop_rate(density))]
            for task, density in per_task("density", options.density, tasks_of(pieces)).items()
        }
        cuts = {task: cut for task, (cut,) in largest(pieces, counts).items()}
    scales: dict[str, float] = {}
    if options.rescale == "l1":
        scales = l1_scales(
            pieces,
            lambda task, vector, where: _drop(task, vector, options, cuts, where),
            of_models=options.drop_from == "model",
        )
    return Measure(cuts, scales)


def kept(
    tasks: Collection[str], options: DropOptions, measure: Measure, parameter: Parameter
) -> dict[str, Kept] | None:
    """What :func:`dropped_vectors` leaves of each task vector, where :mod:`merging.kernels` can do that."""
    if options.drop_from == "model":
        return None
    found = {}
    for task in tasks:
        density = value_of(options.density, task)
        scale = 1.0
        if options.rescale == "l1":
            scale = measure.scales[task]
        elif options.rescale == "inverse_keep" and 0 < density < 1:
            scale = 1 / density
        if measure.cuts:
            found[task] = measure.cuts[task].kept(parameter, scale)
        elif density == 1:
            found[task] = Kept(scale=scale)
        else:
            its = draw(density, seed=options.seed, task=task, parameter=parameter)
            found[task] = Kept(draw=its, scale=scale)
    return found


def dropped_vectors(
    base: Tensor,
    models: Mapping[str, Tensor],
    options: DropOptions,
    measure: Measure,
    parameter: Parameter,
) -> Callable[[str], Tensor]:
    """What gives the task vector (or a piece of it) of a task after dropping and rescaling."""

    def vector_of(task: str) -> Tensor:
        density, from_model = value_of(options.density, task), options.drop_from == "model"
        vector = models[task].clone() if from_model else models[task] - base
        _drop(task, vector, options, measure.cuts, parameter)
        if options.rescale == "l1":
            vector.mul_(measure.scales[task])
        elif options.rescale == "inverse_keep" and 0 < density < 1:
            vector.mul_(1 / density)
        return vector.sub_(base) if from_model else vector

    return vector_of


def _drop(
    task: str, vector: Tensor, options: DropOptions, cuts: Mapping[str, Cut], parameter: Parameter
) -> Tensor:
    """Zero what is dropped, in place."""
    if cuts:
        return cuts[task].keep_(vector, parameter.start)
    density = value_of(options.density, task)
    if density == 1:
        return vector
    return vector.mul_(bernoulli(density, vector, seed=options.seed, task=task, parameter=parameter))


def _drop_rate(density: float) -> float:
    """1 - density as one would write it, 0.1 for 0.9: int(p n) must not lose an element to a rounding."""
    return float(Decimal(1) - Decimal(repr(density)))
