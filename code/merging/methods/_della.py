"""What the two DELLA methods share: drop elements of task vectors at random, the smaller the more often."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from merging.errors import OptionError
from merging.methods._random import bernoulli
from merging.methods._sparsify import Combination, l1_scales, value_of
from merging.options import check_seed

if TYPE_CHECKING:
    from torch import Tensor

    from merging.methods._seam import Parameter, Pieces


@dataclass(frozen=True, kw_only=True)
class RankOptions(Combination):
    """What is dropped, and how the rest is rescaled."""

    density: float | Mapping[str, float] = 0.5
    """1 - p, the mean probability to keep an element; one for all tasks or by task. See epsilon."""
    epsilon: float | Mapping[str, float] = 0.15
    """The smallest element of a row is kept with probability density - epsilon, which must be > 0, the
    largest with density + epsilon, which must be <= 1."""
    rescale: Literal["inverse_keep", "l1", "none"] = "inverse_keep"
    """Divide each element that is kept by its probability, so that its expectation is the task vector; or
    give what is kept the L1 norm of the parameter's task vector (mergekit); or leave it."""
    seed: int = 0
    """Of the random numbers, which also depend on the task's name and on the place of the element."""

    def check(self, owner: str) -> None:
        """Refuse values that are out of range."""
        super().check(owner)
        check_seed(self.seed, owner=owner)
        tasks = {
            task for its in (self.density, self.epsilon) if isinstance(its, Mapping) for task in its
        } or {""}
        for task in tasks:
            density = self.density.get(task) if isinstance(self.density, Mapping) else self.density
            epsilon = self.epsilon.get(task) if isinstance(self.epsilon, Mapping) else self.epsilon
            if density is None or epsilon is None:
                continue  # that a task is missing is said where the tasks are known
            if not (epsilon >= 0 and density - epsilon > 0 and density + epsilon <= 1):
                raise OptionError(
                    f"{owner}: density - epsilon must be > 0 and density + epsilon <= 1 with epsilon >= 0, "
                    f"got density {density} and epsilon {epsilon}. They are fractions, not percentages."
                )


@dataclass(frozen=True)
class Measure:
    """Of one parameter."""

    scales: Mapping[str, float]
    """L1 norm before dropping divided by that after, by task; empty for other ways to rescale."""


def measure_drop(pieces: Pieces, options: RankOptions) -> Measure:
    """The norms of one parameter; reads nothing where they are not asked for."""
    if options.rescale != "l1":
        return Measure(scales={})

    def drop(task: str, vector: Tensor, parameter: Parameter) -> Tensor:
        return vector.mul_(_draw(task, vector, options, parameter)[0])

    return Measure(scales=l1_scales(pieces, drop))


def dropped_vectors(
    base: Tensor,
    models: Mapping[str, Tensor],
    options: RankOptions,
    measure: Measure,
    parameter: Parameter,
) -> Callable[[str], Tensor]:
    """What gives the task vector (or some rows of it) of a task after dropping and rescaling."""

    def vector_of(task: str) -> Tensor:
        vector = models[task] - base
        mask, keep = _draw(task, vector, options, parameter)
        vector.mul_(mask)
        if options.rescale == "inverse_keep":
            vector.div_(keep)
        return vector.mul_(measure.scales[task]) if measure.scales else vector

    return vector_of


def keep_probabilities(vector: Tensor, density: float, epsilon: float, *, transposed: bool) -> Tensor:
    """Probability to keep each element, which rises linearly with the rank of its magnitude in its row.

    Args:
        vector: some rows of a task vector, (outputs, ...), or (inputs, outputs) if ``transposed``; what has
            fewer than two dimensions is one row.
        density: mean of the probabilities.
        epsilon: distance of the smallest and the largest from their mean; a row of one element has the mean.
        transposed: see ``vector``.

    Returns:
        A tensor of the shape of ``vector``. Of equal magnitudes the earlier has the smaller rank.
    """
    import torch

    rows = vector.reshape(1, -1) if vector.dim() < 2 else vector.T if transposed else vector.flatten(1)
    length = rows.shape[1]
    if length < 2 or epsilon == 0:
        return torch.full_like(vector, density)
    order = _ascending(rows.abs())
    steps = torch.arange(length, dtype=vector.dtype, device=vector.device)
    steps = steps.mul_(2 * epsilon / (length - 1)).add_(density - epsilon)
    keep = torch.empty_like(rows).scatter_(1, order, steps.expand_as(rows))
    return (keep.T if transposed else keep).reshape(vector.shape)


def _ascending(magnitudes: Tensor) -> Tensor:
    """Columns of each row in the order of their magnitudes, equal ones in the order of the columns."""
    import torch

    if magnitudes.dtype != torch.float32 or magnitudes.device.type != "cpu":
        return magnitudes.argsort(dim=1, stable=True)
    # The bits of floats >= 0 are in the order of the floats: sorting (bits, column) as one whole number is
    # about ten times as fast as an argsort.
    columns = torch.arange(magnitudes.shape[1])
    keys = magnitudes.contiguous().view(torch.int32).to(torch.int64).mul_(2**32).add_(columns)
    keys.numpy().sort(axis=1)
    return keys.bitwise_and_(2**32 - 1)


def _draw(task: str, vector: Tensor, options: RankOptions, parameter: Parameter) -> tuple[Tensor, Tensor]:
    """What is kept of a task vector, ones and zeros; and the probability of each one."""
    density, epsilon = value_of(options.density, task), value_of(options.epsilon, task)
    keep = keep_probabilities(vector, density, epsilon, transposed=parameter.transposed)
    return bernoulli(keep, vector, seed=options.seed, task=task, parameter=parameter), keep
