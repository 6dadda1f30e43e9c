"""Matching models in their task subspaces, "MaTS" (Tam, Bansal and Raffel, TMLR 2024, arXiv:2312.04339).

    sum_t c_t C_t (X - X_t) = 0               solved by conjugate gradients, one system per parameter

    objective          C_t X                       other parameters
    average            X                           -
    diagonal_fisher    F_t .*. X                   -
    regmean            A_t X                       the weighted average
    kfac               A_t X G_t                   the weighted average
    block              B_t x, B_t is d x d         the weighted average

with X = W^T; where A_t is of the bias, too (``kfac_bias`` of the estimates), X has a row for it, and weight
and bias are merged together. A run that is cut short stays near its start, so the number of iterations and
the initialisation are hyperparameters; the authors start from the best task-arithmetic model and take 100
iterations for full models, 10 for (IA)3 vectors.

Special cases, tested: run to the end, "regmean" is RegMean and "diagonal_fisher" is Fisher-weighted
averaging; one task is its model; for quadratic losses with the given curvature the result minimises
their sum.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal, TypeVar

from merging.errors import OptionError
from merging.methods import average
from merging.methods._linear import (
    DampingUnit,
    Diagonal,
    Kronecker,
    balanced,
    check_fit,
    elementwise,
    from_matrix,
    known,
    kronecker,
    to_matrix,
    total,
)
from merging.methods._precondition import jacobi
from merging.methods._seam import Factors
from merging.methods._solve import conjugate_gradients, norm
from merging.methods._tasks import check_finite, per_task

if TYPE_CHECKING:
    from torch import Tensor

    from merging.methods._seam import Granularity, Parameter, Report

VERSION = 2  # 1: damping was 0.1 of the mean of the diagonal, unless options said otherwise

T = TypeVar("T")
STATISTIC = {"diagonal_fisher": "hessians", "regmean": "grams", "kfac": "factors", "block": "blocks"}


@dataclass(frozen=True, kw_only=True)
class Options:
    """What ``merge`` can be told."""

    objective: Literal["average", "diagonal_fisher", "regmean", "kfac", "block"] = "kfac"
    """Which C_t; each has an input of its own: hessians, grams, factors, blocks."""
    num_iterations: int = 100
    """At most so many, >= 1."""
    initialization: Literal["zero", "average", "initial"] = "average"
    """Where a run starts: at 0, at the weighted average, or at the model given as ``initial``, which may be
    any merged model, or the base. What all C_t leave open stays as it is there."""
    off_diagonal_scaling: float = 1.0
    """What the elements of A_t, G_t and B_t beside the diagonal are multiplied by; 0..1."""
    damping: float = 0.01
    """Of objective "kfac": added to the diagonals of A_t and G_t, in units of ``damping_unit``, >= 0. The
    authors have none; then a run to the end may lie far outside of the models, in directions without
    curvature."""
    damping_unit: DampingUnit = "norm"
    """Of each A_t and G_t: the mean of the diagonal, or the Frobenius norm, which holds for layers of any
    width; see ``gradient_matching_kfac``."""
    weights: Mapping[str, float] | None = None
    """c_t by task, >= 0; by default all alike. Only their ratios matter."""
    tolerance: float = 1e-5
    """A run ends when the residual is not above this times the right side sum_t c_t C_t X_t (L2 norms)."""
    preconditioner: Literal["none", "jacobi"] = "jacobi"
    """jacobi divides by the diagonal of sum_t c_t C_t; the authors' code has none."""
    average_last: int = 0
    """Give the mean over so many last iterates, of runs that use up ``num_iterations``; 0 gives the last one.
    Not in the paper."""

    def __post_init__(self) -> None:
        if self.num_iterations < 1:
            raise OptionError(f"mats: num_iterations must be >= 1, got {self.num_iterations}.")
        if not 0 <= self.off_diagonal_scaling <= 1:
            raise OptionError(
                f"mats: off_diagonal_scaling must be in 0..1, got {self.off_diagonal_scaling}. "
                "Beyond that a curvature need not be positive definite."
            )
        check_finite("mats: damping", self.damping, low=0.0)
        if self.weights is not None:
            check_finite("mats: weights", self.weights, low=0.0)
            if not sum(self.weights.values()) > 0:
                raise OptionError(f"mats: weights must not all be 0, got {dict(self.weights)}.")
        if not 0 <= self.tolerance < 1:
            raise OptionError(f"mats: tolerance must be >= 0 and < 1, got {self.tolerance}.")
        if not 0 <= self.average_last <= self.num_iterations:
            raise OptionError(
                f"mats: average_last must be in 0..num_iterations ({self.num_iterations}), "
                f"got {self.average_last}."
            )


def required(options: Options) -> tuple[str, ...]:
    """The statistic of the objective, and the model to start from."""
    statistic = (STATISTIC[options.objective],) if options.objective in STATISTIC else ()
    return (*statistic, "initial") if options.initialization == "initial" else statistic


def granularity(options: Options) -> Granularity:
    """A step of conjugate gradients depends on the whole parameter."""
    return "elements" if options.objective == "average" else "parameter"


def merge(
    models: Mapping[str, Tensor],
    options: Options,
    hessians: Mapping[str, Tensor] | None = None,
    grams: Mapping[str, Factors | None] | None = None,
    factors: Mapping[str, Factors | None] | None = None,
    blocks: Mapping[str, Tensor | None] | None = None,
    initial: Tensor | None = None,
    parameter: Parameter | None = None,
    report: Report | None = None,
) -> Tensor:
    """Merge one parameter. What the objective does not read may be left out.

    Args:
        models: theta_t by task, of one shape.
        options: objective, iterations, start.
        hessians: diagonals F_t by task, >= 0, in the shape of the parameter.
        grams: A_t by task; None where the parameter is no linear layer.
        factors: A_t and G_t by task; None where there are none. A layer whose G_t was not taken (the head of
            a language model) is averaged.
        blocks: B_t by task, (d, d) for a parameter of d elements; None where there are none.
        initial: where to start, of the parameter's shape.
        parameter: its name, for errors.
        report: is told the number of iterations, the initial and the final residual (L2 norms, in units of
            the right side) and how the run ended.

    Returns:
        The merged parameter. Inputs are not modified.

    Raises:
        CheckpointError: a curvature that does not fit the parameter.
    """
    mean = average.merge(models, average.Options(weights=options.weights))
    if options.objective == "average":
        return mean
    c = per_task("mats: weights", 1.0 if options.weights is None else options.weights, models)
    if options.objective == "diagonal_fisher":
        fishers = _given("hessians", hessians, options)
        diagonals = {task: elementwise(fishers[task], weight=factor) for task, factor in c.items()}
        return _solve(diagonals, models, _start(mean, initial, options), options, report)

    layers = _layers(grams, factors, blocks, options)
    if len(layers) < len(models):
        return mean
    layer = next(iter(layers.values()))
    shape = (-1, 1) if options.objective == "block" else mean.shape
    statistic = STATISTIC[options.objective]
    labelled = {f"{statistic}[{task!r}]": its for task, its in layers.items()}
    check_fit(labelled, mean.reshape(shape), parameter)

    def matrix(tensor: Tensor) -> Tensor:
        return to_matrix(tensor.reshape(shape), layer)

    operators = {
        task: kronecker(
            layers[task],
            mean,
            weight=factor,
            off_diagonal=options.off_diagonal_scaling,
            damping=options.damping if options.objective == "kfac" else 0.0,
            damping_unit=options.damping_unit,
        )
        for task, factor in c.items()
    }
    matrices = {task: matrix(model) for task, model in models.items()}
    merged = _solve(operators, matrices, matrix(_start(mean, initial, options)), options, report)
    return from_matrix(merged, mean, layer)


def _layers(
    grams: Mapping[str, Factors | None] | None,
    factors: Mapping[str, Factors | None] | None,
    blocks: Mapping[str, Tensor | None] | None,
    options: Options,
) -> dict[str, Factors]:
    """What the objective takes of the curvatures, by task; a block acts as an A_t with a column."""
    if options.objective == "block":
        matrices = known(_given("blocks", blocks, options))
        return {task: Factors(its, transposed=True) for task, its in matrices.items()}
    if options.objective == "regmean":
        layers = known(_given("grams", grams, options))
        return {task: replace(its, outputs=None) for task, its in layers.items()}
    layers = known(_given("factors", factors, options))
    return {task: its for task, its in layers.items() if its.outputs is not None}


def _given(key: str, value: Mapping[str, T] | None, options: Options) -> Mapping[str, T]:
    """An input that the objective needs."""
    if value is None:
        raise OptionError(f"mats: missing input {key!r}; objective={options.objective!r} needs it.")
    return value


def _start(mean: Tensor, initial: Tensor | None, options: Options) -> Tensor:
    """Where the run begins."""
    if options.initialization == "average":
        return mean
    if options.initialization == "zero":
        return mean.new_zeros(mean.shape)
    if initial is None:
        raise OptionError("mats: missing input 'initial'; initialization='initial' needs it.")
    return initial


def _solve(
    operators: Mapping[str, Kronecker | Diagonal],
    models: Mapping[str, Tensor],
    start: Tensor,
    options: Options,
    report: Report | None,
) -> Tensor:
    """Solve sum_t c_t C_t (X - X_t) = 0 from a start, for the difference to it; a new tensor."""
    operators = balanced(operators)
    right, whole = start.new_zeros(start.shape), start.new_zeros(start.shape)
    for task, operator in operators.items():
        right += operator(models[task] - start)
        whole += operator(models[task])
    unit = norm(whole)
    solution = conjugate_gradients(
        lambda x: total(operators.values(), x),
        right,
        target=options.tolerance * unit,
        max_iterations=options.num_iterations,
        precondition=jacobi(operators.values()) if operators and options.preconditioner == "jacobi" else None,
        average_last=options.average_last,
    )
    solution.tell(report, unit=unit)
    return start + solution.x
