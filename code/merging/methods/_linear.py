"""Curvature of a linear layer, A (x) G, and the matrix that it acts on.

The matrix is X = W^T, (inputs, outputs): the transpose of what ``nn.Linear`` stores, the weight itself where
it is stored transposed (GPT-2's Conv1D), and (channels * kernel, outputs) for a convolution, whose inputs are
the unfolded patches.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal, Protocol, TypeVar

from merging.errors import CheckpointError
from merging.methods._solve import norm, precision_of

if TYPE_CHECKING:
    from torch import Tensor

    from merging.methods._seam import Factors, Parameter

T = TypeVar("T")
DampingUnit = Literal["mean", "norm"]

NOISE = 100
"""By how much rounding may move the eigenvalues of a second moment, in units of the rounding."""


def to_matrix(weight: Tensor, factors: Factors) -> Tensor:
    """The weight as X, (inputs, outputs); a view."""
    return weight if factors.transposed else weight.flatten(1).T


def from_matrix(matrix: Tensor, like: Tensor, factors: Factors) -> Tensor:
    """X in the shape of the weight, contiguous."""
    return (matrix if factors.transposed else matrix.T).reshape(like.shape).contiguous()


def known(factors: Mapping[str, T | None]) -> dict[str, T]:
    """What the tasks have that have something, sorted by task."""
    return {task: its for task in sorted(factors) if (its := factors[task]) is not None}


def check_fit(factors: Mapping[str, Factors], weight: Tensor, parameter: Parameter | None = None) -> None:
    """Refuse factors that do not belong to a weight.

    Args:
        factors: of this layer, by what they are called in an error: ``grams['a']``.
        weight: what they act on.
        parameter: which one it is, for the error.

    Raises:
        CheckpointError: the weight is a vector, another number of inputs or outputs, or layouts that differ.
    """
    name = "the parameter" if parameter is None else repr(parameter.name)
    first, *others = factors
    for label in others:
        if factors[label].transposed != factors[first].transposed:
            raise CheckpointError(
                f"{name} is stored as (inputs, outputs) for one of {first} and {label}, and as (outputs, "
                "inputs) for the other. Estimate them again, all for this model."
            )
    for label, its in factors.items():
        if weight.dim() < 2:
            raise CheckpointError(
                f"{label}: {name} of shape {tuple(weight.shape)} is no matrix, and has no factors. "
                "Estimate them again, for this model."
            )
        num_inputs, num_outputs = to_matrix(weight, its).shape
        for side, matrix, size in (("inputs", its.inputs, num_inputs), ("outputs", its.outputs, num_outputs)):
            if matrix is not None and matrix.shape != (size, size):
                raise CheckpointError(
                    f"{label}: {name} has {size} {side}, but its factor is {tuple(matrix.shape)}. "
                    "Estimate it again, for this model."
                )


class Curvature(Protocol):
    """A symmetric positive semi-definite operator on a matrix."""

    def __call__(self, x: Tensor) -> Tensor:
        """Its product with x, a new tensor."""

    def diagonal(self) -> Tensor:
        """What multiplies each element of x if all others are 0; in the shape of x, or of one column."""


@dataclass(frozen=True)
class Kronecker:
    """``weight * A (x) G``, which takes X to ``weight * A X G``."""

    inputs: Tensor
    """A divided by the mean of its diagonal, (inputs, inputs)."""
    outputs: Tensor | None
    """G divided by the mean of its diagonal, (outputs, outputs); None: the identity."""
    weight: float
    """Takes both divisors back; a Python number, which neither overflows nor underflows."""

    def __call__(self, x: Tensor) -> Tensor:
        """``weight * A X G``."""
        product = self.inputs @ x
        return (product if self.outputs is None else product @ self.outputs).mul_(self.weight)

    def diagonal(self) -> Tensor:
        """``weight * diag(A) diag(G)^T``."""
        column = self.weight * self.inputs.diagonal()[:, None]
        return column if self.outputs is None else column * self.outputs.diagonal()

    def times(self, factor: float) -> Kronecker:
        """The operator multiplied by a number."""
        return Kronecker(self.inputs, self.outputs, self.weight * factor)

    def identity(self, weight: float) -> Kronecker:
        """``weight * I``, of the same sizes."""
        import torch

        inputs = torch.eye(len(self.inputs)).to(self.inputs)
        outputs = None if self.outputs is None else torch.eye(len(self.outputs)).to(self.outputs)
        return Kronecker(inputs, outputs, weight)


@dataclass(frozen=True)
class Diagonal:
    """``weight * values``, elementwise."""

    values: Tensor
    """Divided by their mean."""
    weight: float

    def __call__(self, x: Tensor) -> Tensor:
        """``weight * values * x``."""
        return (self.values * x).mul_(self.weight)

    def diagonal(self) -> Tensor:
        """``weight * values``."""
        return self.weight * self.values

    def times(self, factor: float) -> Diagonal:
        """The operator multiplied by a number."""
        return Diagonal(self.values, self.weight * factor)


def kronecker(
    factors: Factors,
    like: Tensor,
    *,
    weight: float = 1.0,
    off_diagonal: float = 1.0,
    damping: float = 0.0,
    damping_unit: DampingUnit = "mean",
) -> Kronecker:
    """The operator of one layer, times ``weight``, in the dtype of ``like``; multiplied by ``Factors.scale``.

    Args:
        factors: A and G.
        like: gives dtype and device.
        weight: of the task.
        off_diagonal: what the elements of A and G beside the diagonal are multiplied by, 0..1.
        damping: added to the diagonals of A and of G (factored Tikhonov damping: Martens and Grosse, ICML
            2015, arXiv:1503.05671, section 6.3).
        damping_unit: the mean of the diagonal, or the Frobenius norm, of each of them.
    """
    weight = weight * factors.scale
    inputs, mean = _normalized(softened(factors.inputs.to(like), off_diagonal))
    inputs.diagonal().add_(damping * _unit(inputs, damping_unit) if mean > 0 else 0.0)
    weight *= mean
    if factors.outputs is None:
        return Kronecker(inputs, None, weight)
    outputs, mean = _normalized(softened(factors.outputs.to(like), off_diagonal))
    outputs.diagonal().add_(damping * _unit(outputs, damping_unit) if mean > 0 else 0.0)
    return Kronecker(inputs, outputs, weight * mean)


def _unit(matrix: Tensor, kind: DampingUnit) -> float:
    """What damping is measured in, of a matrix whose diagonal has the mean 1."""
    return 1.0 if kind == "mean" else norm(matrix)


def regularized(factors: Factors, like: Tensor) -> Factors:
    """Factors in which no direction is noise: rounding turns eigenvalues of 0 into tiny ones, also negative.

    A multiple of the rounding error, in units of the largest element, is added to the diagonals, but not
    where these are 0.
    """
    import torch

    def lifted(matrix: Tensor) -> Tensor:
        rounding = max(precision_of(matrix), torch.finfo(like.dtype).eps)
        result = softened(matrix.to(like), 1.0)
        diagonal = result.diagonal()
        diagonal.add_((diagonal > 0) * (NOISE * rounding * diagonal.max()))
        return result

    outputs = None if factors.outputs is None else lifted(factors.outputs)
    return replace(factors, inputs=lifted(factors.inputs), outputs=outputs)


def elementwise(values: Tensor, *, weight: float = 1.0) -> Diagonal:
    """The operator of a diagonal curvature, times ``weight``."""
    mean = _mean(values)
    return Diagonal(values / mean if mean > 0 else values, weight * mean)


def softened(matrix: Tensor, off_diagonal: float) -> Tensor:
    """``off_diagonal * M + (1 - off_diagonal) * diag(M)``, a new tensor.

    Where the diagonal of a second moment is 0, so are its row and column; if not, they are made so.
    """
    result = matrix * off_diagonal
    diagonal = matrix.diagonal()
    result.diagonal().copy_(diagonal)
    dead = diagonal == 0
    result[dead] = 0
    result[:, dead] = 0
    return result


def total(operators: Iterable[Curvature], x: Tensor) -> Tensor:
    """Sum of the products of all operators with x."""
    import torch

    result = torch.zeros_like(x)
    for operator in operators:
        result += operator(x)
    return result


def balanced(operators: Mapping[str, Kronecker | Diagonal]) -> dict[str, Kronecker | Diagonal]:
    """The operators divided by the largest of their weights: a system keeps its solution, float32 its range.

    Operators that are 0 are left out; so is everything where all are.
    """
    largest = max((its.weight for its in operators.values()), default=0.0)
    return {task: its.times(1 / largest) for task, its in operators.items() if its.weight > 0}


def _normalized(matrix: Tensor) -> tuple[Tensor, float]:
    """A matrix divided, in place, by the mean of its diagonal, and that mean (0 for a matrix that is 0)."""
    mean = _mean(matrix.diagonal())
    return (matrix.div_(mean) if mean > 0 else matrix), max(mean, 0.0)


def _mean(values: Tensor) -> float:
    """Mean with a sum in float64; 0 of nothing."""
    import torch

    return float(values.sum(dtype=torch.float64)) / max(values.numel(), 1)
