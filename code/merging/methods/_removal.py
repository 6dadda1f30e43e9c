"""Taking away curvature, and keeping what is left positive."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from merging.methods._linear import Kronecker
from merging.methods._precondition import jointly_diagonal, regular

if TYPE_CHECKING:
    from torch import Tensor

RIDGE = 100
"""Added to the matrices of a prior, in units of the rounding error of its numbers: less of it is noise."""


@dataclass(frozen=True)
class Limited:
    """A curvature that was cut: X to ``weight * U (values .*. (U^T X V)) V^T``."""

    inputs: Tensor
    """U, (inputs, inputs)."""
    outputs: Tensor | None
    """V, (outputs, outputs); None: the identity."""
    values: Tensor
    """0..1, (inputs, outputs), or one column."""
    weight: float
    """The limit."""
    cut: float
    """Fraction of the directions in which the curvature was above the limit."""

    def __call__(self, x: Tensor) -> Tensor:
        """Product with x, a new tensor."""
        inside = self.inputs.T @ x
        if self.outputs is None:
            return (self.inputs @ inside.mul_(self.values)).mul_(self.weight)
        inside = (inside @ self.outputs).mul_(self.values)
        return (self.inputs @ inside @ self.outputs.T).mul_(self.weight)


def limited(
    removed: Sequence[Kronecker], prior: Kronecker, fraction: float
) -> tuple[list[Limited], Kronecker]:
    """Cut curvatures so that together they surpass a fraction of a prior nowhere.

    The prior and any other one are both diagonal in the coordinates Y of X = P Y Q^T that two generalised
    eigenproblems give (see ``_precondition``): there the prior is w_0 and the other one w a_j g_k, which is
    cut at its share of ``fraction`` w_0.

    Args:
        removed: what is to be taken away; all or none of them and of the prior act on the outputs, too.
        prior: from what; its matrices are not 0.
        fraction: 0..1.

    Returns:
        What may be taken away, and the prior with a ridge that makes it positive definite.
    """
    import torch

    dtype = prior.inputs.dtype
    limit = fraction * prior.weight / len(removed)
    ridge = RIDGE * torch.finfo(dtype).eps
    inputs, input_root = regular(prior.inputs.double(), ridge)
    outputs, output_root = None, None
    if prior.outputs is not None:
        outputs, output_root = regular(prior.outputs.double(), ridge)

    def cut(operator: Kronecker) -> Limited:
        vectors, sizes = jointly_diagonal(input_root, operator.inputs.double())
        left, right = (input_root @ vectors).to(dtype), None
        values = operator.weight * sizes[:, None]
        if output_root is not None and operator.outputs is not None:
            vectors, sizes = jointly_diagonal(output_root, operator.outputs.double())
            right = (output_root @ vectors).to(dtype)
            values = values * sizes
        shares = (values / limit).clamp_(max=1) if limit > 0 else torch.zeros_like(values)
        return Limited(left, right, shares.to(dtype), limit, float((values > limit).double().mean()))

    whole = Kronecker(inputs.to(dtype), None if outputs is None else outputs.to(dtype), prior.weight)
    return [cut(its) for its in removed], whole
