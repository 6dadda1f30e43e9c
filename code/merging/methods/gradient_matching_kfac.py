"""Gradient matching with the curvature of whole layers (Daheim et al., ICLR 2024, arXiv:2310.12808).

    (H_0 + sum_t alpha_t H_t) (theta - theta_0) = sum_t alpha_t (H_0 + H_t) (theta_t - theta_0)

H_t = A_t (x) G_t is the K-FAC curvature of a linear layer (Martens and Grosse, ICML 2015,
arXiv:1503.05671), which takes X = W^T to A_t X G_t; delta_0 I is added to H_0. ``gradient_matching`` is the
same with diagonals. Solved for the difference Y to task arithmetic,

    (H_0 + sum_t alpha_t H_t) Y = sum_t alpha_t H_t (theta_t - theta_TA)

by conjugate gradients in float64 whose preconditioner is the closed form for two operators: exact, so that a
step is enough, for two tasks without H_0 or one with it. Where only A_t are given, Cholesky's method solves.
What nobody knows anything of is as in task arithmetic, also with delta_0 = 0; factors of too few examples
get a ridge of the size of their rounding, and all of them ``damping``. Parameters without factors are merged
by ``gradient_matching`` with diagonal Hessians, or by task arithmetic (``others``). Where A_t is of the bias,
too, as of one more input (``kfac_bias`` of the estimates), X has a row for it: they are merged together.

Special cases, tested: those of ``gradient_matching``, with operators for diagonals; diagonal factors give its
result; for quadratic losses and proximal training it is the joint optimum.

A negative alpha_t removes a task. Where its curvature would leave less than ``kappa`` H_0, in the directions
in which both are diagonal, it is cut, on both sides of the equation. So no step gets out of hand, as it can
above the floor of ``gradient_matching``: with one task it is at most (|alpha| + 1 - kappa) / kappa times the
task's own, in the norm of H_0.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from merging.errors import CheckpointError, OptionError
from merging.methods import gradient_matching, task_arithmetic
from merging.methods._linear import (
    Kronecker,
    check_fit,
    from_matrix,
    known,
    kronecker,
    regularized,
    to_matrix,
)
from merging.methods._precondition import jacobi, kronecker_inverse
from merging.methods._removal import Limited, limited
from merging.methods._solve import cholesky_solve, conjugate_gradients, norm, precision_of
from merging.methods._tasks import check_finite, per_task

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    from merging.methods._seam import Factors, Parameter, Report

VERSION = 2  # 1: damping was 0.1 of the mean of the diagonal, unless options said otherwise

SMALLEST = 1e-30
"""delta_0 = 0 for diagonals, which are divided by: far below every curvature, and far above underflow."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """What ``merge`` can be told."""

    scaling_factor: float | Mapping[str, float] = 1.0
    """alpha: one value for all tasks, or alpha_t by task."""
    delta_0: float = 1e-12
    """Prior precision, >= 0, in the unit of the curvatures (summed over training examples)."""
    damping: float = 0.01
    """Added to the diagonals of A_t and G_t, in units of ``damping_unit``, >= 0. Curvatures of layers know
    next to nothing of most directions, and without it those decide: a combination of matrices, unlike one of
    numbers, may lie far outside of the models."""
    damping_unit: Literal["mean", "norm"] = "norm"
    """Of each A_t and G_t: the mean of the diagonal, or the Frobenius norm. With "norm" no direction counts
    more than 1 + 1 / damping times another one on a side, however wide the layer and however low the rank of
    its factors; with "mean" that grows with the width."""
    sides: Literal["both", "inputs"] = "both"
    """"inputs" leaves the G_t out, as if they were the identity: the curvature that RegMean takes."""
    prior: bool = True
    """Use the curvature of the base; without it H_0 is delta_0 I."""
    others: Literal["gradient_matching", "task_arithmetic"] = "gradient_matching"
    """How parameters without factors are merged: with diagonal Hessians, or without."""
    anchor: Literal["task_arithmetic", "base"] = "task_arithmetic"
    """What the pretraining curvature pulls to; see ``gradient_matching``."""
    num_iterations: int = 100
    """At most so many for one parameter, >= 1."""
    tolerance: float = 1e-6
    """A run ends when the residual is not above this times sum_t |alpha_t| |H_t tau_t| (L2 norms)."""
    preconditioner: Literal["none", "jacobi", "kronecker"] = "kronecker"
    """kronecker is much the best, and costs two eigenvalue problems for each layer; jacobi divides by the
    diagonal."""
    kappa: float = 0.1
    """How much of H_0 has to stay, 0..1; matters for negative alpha only."""

    def __post_init__(self) -> None:
        check_finite("gradient_matching_kfac: scaling_factor", self.scaling_factor)
        check_finite("gradient_matching_kfac: delta_0", self.delta_0, low=0.0)
        check_finite("gradient_matching_kfac: damping", self.damping, low=0.0)
        if self.num_iterations < 1:
            raise OptionError(
                f"gradient_matching_kfac: num_iterations must be >= 1, got {self.num_iterations}."
            )
        if not 0 <= self.tolerance < 1:
            raise OptionError(
                f"gradient_matching_kfac: tolerance must be >= 0 and < 1, got {self.tolerance}."
            )
        if not 0 < self.kappa <= 1:
            raise OptionError(f"gradient_matching_kfac: kappa must be > 0 and <= 1, got {self.kappa}.")


def required(options: Options) -> tuple[str, ...]:
    """What these options need."""
    curvatures = ("base_factors",) if options.prior else ()
    if options.others == "task_arithmetic":
        return curvatures
    return (*curvatures, "hessians", "base_hessian") if options.prior else ("hessians",)


def merge(
    base: Tensor,
    models: Mapping[str, Tensor],
    factors: Mapping[str, Factors | None],
    options: Options,
    base_factors: Factors | None = None,
    hessians: Mapping[str, Tensor] | None = None,
    base_hessian: Tensor | None = None,
    parameter: Parameter | None = None,
    report: Report | None = None,
) -> Tensor:
    """Merge one parameter.

    Args:
        base: theta_0.
        models: theta_t by task, of one shape.
        factors: A_t and G_t by task; None: no curvature. Where G_t was not taken, it is the identity.
        options: scaling factors, delta_0.
        base_factors: those of H_0; None: H_0 is delta_0 I.
        hessians: diagonals of H_t by task, for parameters without factors.
        base_hessian: diagonal of H_0, for parameters without factors.
        parameter: its name, for errors.
        report: is told the number of iterations, the initial and the final residual and how the run ended; or
            the ridge of Cholesky's method. Also the step, |theta - theta_0| in units of
            sum_t |theta_t - theta_0| (L2 norms): with diagonal curvatures and alpha_t in 0..1 it is at most
            1, and far more in many layers says that ``damping`` is too small. With a negative alpha_t, the
            fraction of the directions in which its curvature was cut.

    Returns:
        The merged parameter. Inputs are not modified.

    Raises:
        CheckpointError: factors that do not fit the parameter.
    """
    layers = known(factors)
    if options.sides == "inputs":
        layers = {task: replace(its, outputs=None) for task, its in layers.items()}
        base_factors = None if base_factors is None else replace(base_factors, outputs=None)
    labelled = {f"factors[{task!r}]": its for task, its in layers.items()}
    if base_factors is not None:
        labelled["base_factors"] = base_factors
    if not labelled:
        return _without_factors(base, models, options, hessians, base_hessian)
    import torch

    _check(labelled, base, parameter)
    layer = next(iter(labelled.values()))
    alpha = per_task("gradient_matching_kfac: scaling_factor", options.scaling_factor, models)
    start = base
    if options.anchor == "task_arithmetic":
        sum_of_tasks = task_arithmetic.Options(scaling_factor=options.scaling_factor)
        start = task_arithmetic.merge(base, models, sum_of_tasks)

    like = base.double()  # curvatures differ by direction much more than float32 can tell apart

    def curvature(its: Factors) -> Kronecker:
        lifted = regularized(its, like)
        return kronecker(lifted, like, damping=options.damping, damping_unit=options.damping_unit)

    system = _system(
        {task: (alpha[task], curvature(its)) for task, its in layers.items()},
        None if base_factors is None else curvature(base_factors),
        options,
    )
    origin, old = to_matrix(start, layer).to(like.dtype), to_matrix(base, layer).to(like.dtype)
    right, unit = torch.zeros_like(origin), 0.0
    for task in system.tasks:
        model = to_matrix(models[task], layer)
        right += system.task_times(task, model - origin)
        unit += norm(system.task_times(task, model - old))
    target = options.tolerance * unit
    if layer.outputs is None and not system.removed and norm(right) > target:
        correction, ridge = system.solve(right, precision=precision_of(layer.inputs))
        merged = from_matrix(origin + correction, base, layer)
        if report is not None:
            report("ridge", ridge)
            report("step", _step(base, models, merged))
        return merged
    precondition = system.preconditioner(options.preconditioner, right) if norm(right) > target else None
    solution = conjugate_gradients(
        system, right, target=target, max_iterations=options.num_iterations, precondition=precondition
    )
    merged = from_matrix((origin + solution.x).to(base.dtype), base, layer)
    solution.tell(report, unit=unit)
    if report is not None:
        report("step", _step(base, models, merged))
        if system.removed:
            report("cut_fraction", max(its.cut for its in system.removed.values()))
    return merged


def _step(base: Tensor, models: Mapping[str, Tensor], merged: Tensor) -> float:
    """How far the merge went, in units of how far the models did all together; 0 if they did not move."""
    reach = sum(norm(model - base) for model in models.values())
    return norm(merged - base) / reach if reach > 0 else 0.0


@dataclass(frozen=True)
class _System:
    """H_0 + delta I + sum_t alpha_t H_t, an operator."""

    added: Mapping[str, Kronecker]
    """alpha_t H_t of positive alpha_t."""
    removed: Mapping[str, Limited]
    """-alpha_t H_t of negative ones, cut."""
    prior: Kronecker | None
    delta: float

    @property
    def tasks(self) -> list[str]:
        """Those whose curvature matters, in one order."""
        return sorted([*self.added, *self.removed])

    def task_times(self, task: str, x: Tensor) -> Tensor:
        """alpha_t H_t x, a new tensor."""
        return self.added[task](x) if task in self.added else self.removed[task](x).neg_()

    def __call__(self, x: Tensor) -> Tensor:
        """Product with x, a new tensor."""
        product = x * self.delta if self.prior is None else self.prior(x).add_(x, alpha=self.delta)
        for task in self.tasks:
            product += self.task_times(task, x)
        return product

    def _positive(self) -> list[Kronecker]:
        """Operators of weight > 0 but for delta I; H_0 first, then the largest first."""
        tasks = sorted(self.added.values(), key=lambda its: -its.weight)  # names must not matter
        return [its for its in (self.prior, *tasks) if its is not None and its.weight > 0]

    def solve(self, right: Tensor, *, precision: float) -> tuple[Tensor, float]:
        """Solve by Cholesky's method, where all operators act on the inputs only; also gives the ridge."""
        import torch

        matrix = torch.zeros(len(right), len(right), dtype=torch.float64, device=right.device)
        for operator in self._positive():
            matrix.add_(operator.inputs, alpha=operator.weight)
        matrix.diagonal().add_(self.delta)
        solution, ridge = cholesky_solve(matrix, right.to(torch.float64), precision=precision)
        return solution.to(right.dtype), ridge

    def preconditioner(self, kind: str, like: Tensor) -> Callable[[Tensor], Tensor] | None:
        """An approximate inverse, without what is taken away."""
        operators = self._positive()
        if kind == "none" or not operators:
            return None
        if kind == "jacobi":
            return jacobi(operators, self.delta)
        return kronecker_inverse(operators, self.delta, like)


def _system(
    tasks: Mapping[str, tuple[float, Kronecker]], prior: Kronecker | None, options: Options
) -> _System:
    """The system of alpha_t and H_t by task.

    It is divided by its largest weight: the solution stays, and numbers stay in the range of float32.
    """
    weights = [abs(factor) * its.weight for factor, its in tasks.values()]
    unit = max(options.delta_0, 0.0 if prior is None else prior.weight, *weights) or 1.0
    prior, delta = None if prior is None else prior.times(1 / unit), options.delta_0 / unit
    added = {task: its.times(factor / unit) for task, (factor, its) in tasks.items() if factor > 0}
    removed = {task: its.times(-factor / unit) for task, (factor, its) in tasks.items() if factor < 0}
    if not removed:
        return _System(added, {}, prior, delta)
    if prior is None or prior.weight == 0:  # delta I is all that can be taken away from
        prior, delta = next(iter(removed.values())).identity(delta), 0.0
    cut, prior = limited(list(removed.values()), prior, 1 - options.kappa)
    return _System(added, dict(zip(removed, cut, strict=True)), prior, delta)


def _check(labelled: Mapping[str, Factors], base: Tensor, parameter: Parameter | None) -> None:
    """Refuse factors that do not fit the parameter, or each other."""
    check_fit(labelled, base, parameter)
    first, *others = labelled
    for label in others:
        if (labelled[first].outputs is None) != (labelled[label].outputs is None):
            name = "the parameter" if parameter is None else repr(parameter.name)
            raise CheckpointError(
                f"{name} has a factor of outputs in only one of {first} and {label}, so their sizes cannot "
                "be compared. Estimate all of them alike."
            )


def _without_factors(
    base: Tensor,
    models: Mapping[str, Tensor],
    options: Options,
    hessians: Mapping[str, Tensor] | None,
    base_hessian: Tensor | None,
) -> Tensor:
    """Merge a parameter that is no linear layer."""
    import torch

    if options.others == "task_arithmetic":
        factor = options.scaling_factor
        return task_arithmetic.merge(base, models, task_arithmetic.Options(scaling_factor=factor))
    zero = torch.zeros_like(base)
    return gradient_matching.merge(
        base,
        models,
        zero if base_hessian is None else base_hessian,
        dict.fromkeys(models, zero) if hessians is None else hessians,
        gradient_matching.Options(
            scaling_factor=options.scaling_factor,
            delta_0=max(options.delta_0, SMALLEST),
            anchor=options.anchor,
            kappa=options.kappa,
        ),
    )
