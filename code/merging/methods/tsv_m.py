"""Task singular vectors, TSV-M (Gargiulo et al., CVPR 2025, arXiv:2412.00081).

    U_t S_t V_t^T = tau_t                                  the first floor(min(o, i) / T) directions are kept
    theta = theta_0 + alpha polar[U_1 .. U_T] diag(S_1 .. S_T) polar[V_1 .. V_T]^T

Per parameter, for matrices; a convolution's weight is (outputs, everything else). Of vectors and scalars, and
of matrices with fewer rows or columns than there are tasks, the mean of the task vectors is taken instead.
Special cases, tested: one task with alpha = 1 is its model; tasks whose directions are orthogonal are added.
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
    """alpha."""
    parity: bool = False
    """As FusionBench does: average the weights of convolutions, and leave a matrix with fewer rows or columns
    than there are tasks as it is in the base."""

    def __post_init__(self) -> None:
        check_finite("tsv_m: scaling_factor", self.scaling_factor)


def working_bytes(shape: tuple[int, ...], num_models: int) -> int:
    """Of the decompositions."""
    return _svd.working_bytes(shape, element=48, square=72)


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
    combined = None
    if _svd.has_matrix(tuple(base.shape), parity=options.parity):
        matrices = [_svd.to_matrix(vector) for vector in vectors]
        if options.parity or min(matrices[0].shape) >= len(matrices):
            combined = _svd.from_matrix(combine(matrices), base)
    if combined is None:
        combined = _svd.mean(vectors)
    return base.add(combined, alpha=options.scaling_factor)


def combine(vectors: Sequence[Tensor]) -> Tensor:
    """The first singular directions of all tasks, made orthogonal to each other; float64.

    Args:
        vectors: tau_t as matrices (o, i).
    """
    import torch

    rank = min(vectors[0].shape) // len(vectors)
    parts = [_svd.decompose(vector, first=rank) for vector in vectors]
    left, values, right = zip(*parts, strict=True)
    return (_svd.polar(torch.cat(left, 1)) * torch.cat(values)) @ _svd.polar(torch.cat(right, 0))
