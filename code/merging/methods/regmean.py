"""RegMean (Jin et al., ICLR 2023, arXiv:2212.09849).

    X = (sum_t c_t A_t)^-1 sum_t c_t A_t X_t          X = W^T, A_t = mean of a a^T over the layer's inputs a

for every linear layer: its outputs stay near those of each model on that model's own inputs. The elements of
A_t beside the diagonal are first multiplied by ``off_diagonal_scaling``. All else, biases included, is the
weighted average. Solved for the difference to that average, in float64, per parameter:

    X = Xbar + (sum_t c_t A_t + rho I)^-1 sum_t c_t A_t (X_t - Xbar)

The ridge rho is 0 unless the sum is singular (fewer positions than inputs, and ``off_diagonal_scaling`` = 1);
then, as for inputs that are always 0, what the data leave open is as in the average.

Special cases, tested: equal A_t give the weighted average; diagonal A_t are Fisher-weighted averaging with
the curvature of each column; models whose inputs have nothing in common are all reproduced on their own.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from merging.errors import CheckpointError, OptionError
from merging.methods import average
from merging.methods._linear import check_fit, from_matrix, known, softened, to_matrix
from merging.methods._solve import cholesky_solve, precision_of
from merging.methods._tasks import check_finite, per_task
from merging.patterns import matches

if TYPE_CHECKING:
    from torch import Tensor

    from merging.methods._seam import Factors, Parameter, Report


@dataclass(frozen=True, kw_only=True)
class Options:
    """What ``merge`` can be told."""

    off_diagonal_scaling: float = 0.9
    """What the elements of A_t beside the diagonal are multiplied by; 0..1. 1 leaves A_t as it is, 0 keeps
    its diagonal only."""
    weights: Mapping[str, float] | None = None
    """c_t by task, >= 0; by default all alike."""
    normalize: bool = True
    """Divide by the sum of the weights where parameters are averaged; in linear layers it cancels."""
    weigh_by_positions: bool = False
    """Multiply each A_t, a mean, by the number of positions it was taken over; else all tasks count alike."""
    exclude: tuple[str, ...] = ()
    """Shell-style patterns of parameters that are averaged although they are linear layers."""

    def __post_init__(self) -> None:
        if not 0 <= self.off_diagonal_scaling <= 1:
            raise OptionError(
                f"regmean: off_diagonal_scaling must be in 0..1, got {self.off_diagonal_scaling}. "
                "Beyond that a Gram matrix need not be positive definite."
            )
        if self.weights is not None:
            check_finite("regmean: weights", self.weights, low=0.0)
            if not sum(self.weights.values()) > 0:
                raise OptionError(f"regmean: weights must not all be 0, got {dict(self.weights)}.")


def merge(
    models: Mapping[str, Tensor],
    grams: Mapping[str, Factors | None],
    options: Options,
    parameter: Parameter | None = None,
    report: Report | None = None,
) -> Tensor:
    """Merge one parameter.

    Args:
        models: theta_t by task, of one shape.
        grams: A_t by task, >= 0, symmetric; None where the parameter is no linear layer. Where one task has
            none, the parameter is averaged.
        options: weights, scaling.
        parameter: its name is matched with ``exclude``.
        report: is told the ridge, in units of the mean of the diagonal.

    Returns:
        The merged parameter. Inputs are not modified.

    Raises:
        CheckpointError: an A_t that does not fit the parameter or is not positive semi-definite.
    """
    import torch

    weights = per_task("regmean: weights", 1.0 if options.weights is None else options.weights, models)
    excluded = parameter is not None and matches(parameter.name, options.exclude)
    layers = {} if excluded else known(grams)
    if len(layers) < len(models):
        return average.merge(models, average.Options(weights=options.weights, normalize=options.normalize))
    task, layer = next(iter(layers.items()))
    like = models[task]
    check_fit({f"grams[{task!r}]": its for task, its in layers.items()}, like, parameter)

    mean = torch.zeros_like(to_matrix(like, layer), dtype=torch.float64)
    for task, weight in weights.items():
        mean.add_(to_matrix(models[task], layer), alpha=weight / sum(weights.values()))
    gram, right = mean.new_zeros(len(mean), len(mean)), torch.zeros_like(mean)
    for task, weight in weights.items():
        factor = weight * _positions(task, layers[task], parameter, options) * layers[task].scale
        its = softened(layers[task].inputs.to(gram), options.off_diagonal_scaling) * factor
        its = (its + its.T).div_(2)
        gram += its
        right.addmm_(its, to_matrix(models[task], layer) - mean)
    correction, ridge = cholesky_solve(gram, right, precision=precision_of(layer.inputs))
    if report is not None:
        report("ridge", ridge)
    return from_matrix((mean + correction).to(like.dtype), like, layer)


def _positions(task: str, gram: Factors, parameter: Parameter | None, options: Options) -> float:
    """By what a mean is multiplied to weigh tasks by their numbers of positions; 1 to weigh them alike."""
    if not options.weigh_by_positions:
        return 1.0
    if gram.num_positions <= 0:
        name = "a parameter" if parameter is None else repr(parameter.name)
        raise CheckpointError(
            f"regmean: weigh_by_positions needs the number of positions, which grams[{task!r}] does not say "
            f"for {name}. Estimate it again, or leave weigh_by_positions out."
        )
    return float(gram.num_positions)
