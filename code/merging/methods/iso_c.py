"""Isotropic merging in the common subspace, Iso-C (Marczak et al., ICML 2025, arXiv:2502.04959).

    U S V^T = sum_t tau_t
    theta   = theta_0 + lambda mean(S) U V^T

Per parameter, for matrices; a convolution's weight is (outputs, everything else). Of vectors and scalars the
mean of the task vectors is taken instead. Directions in which the sum is zero stay zero; ``mean(S)`` is over
all min(o, i) singular values.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from merging.methods import _svd
from merging.methods._tasks import check_finite

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class Options:
    """What ``merge`` can be told."""

    scaling_factor: float = 1.0
    """lambda."""
    parity: bool = False
    """Average the weights of convolutions, as FusionBench does."""

    def __post_init__(self) -> None:
        check_finite("iso_c: scaling_factor", self.scaling_factor)


def working_bytes(shape: tuple[int, ...], num_models: int) -> int:
    """Of the decompositions."""
    return _svd.working_bytes(shape, element=24, square=32)


def merge(base: Tensor, models: Mapping[str, Tensor], options: Options) -> Tensor:
    """Merge one parameter as a whole.

    Args:
        base: theta_0, of any rank; the first dimension of a matrix may be its inputs or its outputs.
        models: theta_t by task, of the same shape.
        options: the scaling factor.

    Returns:
        The merged parameter. Inputs are not modified.
    """
    vectors = [models[task] - base for task in sorted(models)]
    if _svd.has_matrix(tuple(base.shape), parity=options.parity):
        combined = _svd.from_matrix(isotropic([_svd.to_matrix(vector) for vector in vectors]), base)
    else:
        combined = _svd.mean(vectors)
    return base.add(combined, alpha=options.scaling_factor)


def isotropic(vectors: Sequence[Tensor]) -> Tensor:
    """mean(S) U V^T of the sum, float64.

    Args:
        vectors: tau_t as matrices (o, i).
    """
    total = _svd.mean(vectors).mul_(len(vectors))
    left, values, right = _svd.decompose(total)
    return (left @ right).mul_(values.sum() / min(total.shape))
