"""Isotropic merging in common and own subspaces, Iso-CTS (Marczak et al., ICML 2025, arXiv:2502.04959).

    U S V^T       = sum_t tau_t                                the first c directions are kept: U_c, S_c, V_c
    U_t S_t V_t^T = tau_t - U_c U_c^T tau_t                    the first n directions of each task are kept
    U* = polar [U_1 .. U_T, U_c]      V* = polar [V_1 .. V_T, V_c]
    theta = theta_0 + lambda mean(S_1 .. S_T, S_c) U* V*^T

Of m = min(o, i) directions, those that are not common are shared alike: n = round((m - floor(f m)) / T),
where f is ``common_space_fraction``, and c = m - T n. Per parameter, for matrices; a convolution's weight is
(outputs, everything else). Of vectors and scalars the mean of the task vectors is taken instead. Special
case, tested: c = m is Iso-C.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from merging.errors import OptionError
from merging.methods import _svd
from merging.methods._tasks import check_finite

if TYPE_CHECKING:
    from torch import Tensor

    from merging.methods._seam import Parameter


@dataclass(frozen=True, kw_only=True)
class Options:
    """What ``merge`` can be told."""

    scaling_factor: float = 1.0
    """lambda."""
    common_space_fraction: float = 0.8
    """f: which part of the directions is common to all tasks; 0..1."""
    parity: bool = False
    """Average the weights of convolutions, and take matrices as (outputs, inputs), as FusionBench does."""

    def __post_init__(self) -> None:
        check_finite("iso_cts: scaling_factor", self.scaling_factor)
        if not 0 <= self.common_space_fraction <= 1:
            raise OptionError(
                f"iso_cts: common_space_fraction must be in 0..1, got {self.common_space_fraction}."
            )


def working_bytes(shape: tuple[int, ...], num_models: int) -> int:
    """Of the decompositions."""
    return _svd.working_bytes(shape, element=64, square=48 + 12 * num_models)


def needs_layout(options: Options) -> bool:
    """What is common is projected away on the side of the outputs."""
    return not options.parity


def merge(base: Tensor, models: Mapping[str, Tensor], parameter: Parameter, options: Options) -> Tensor:
    """Merge one parameter as a whole.

    Args:
        base: theta_0, of any rank.
        models: theta_t by task, of the same shape.
        parameter: whether it is stored transposed.
        options: scaling factor, fraction.

    Returns:
        The merged parameter. Inputs are not modified.
    """
    vectors = [models[task] - base for task in sorted(models)]
    if _svd.has_matrix(tuple(base.shape), parity=options.parity):
        transposed = parameter.transposed
        matrices = [_svd.to_matrix(vector, transposed=transposed) for vector in vectors]
        combined = isotropic(matrices, options.common_space_fraction)
        combined = _svd.from_matrix(combined, base, transposed=transposed)
    else:
        combined = _svd.mean(vectors)
    return base.add(combined, alpha=options.scaling_factor)


def isotropic(vectors: Sequence[Tensor], common_space_fraction: float) -> Tensor:
    """mean(S_1 .. S_T, S_c) U* V*^T, float64.

    Args:
        vectors: tau_t as matrices (o, i).
        common_space_fraction: f.
    """
    import torch

    smaller = min(vectors[0].shape)
    num_own = round((smaller - int(common_space_fraction * smaller)) / len(vectors))
    num_own = min(num_own, smaller // len(vectors))  # rounding up may ask for more than there are
    num_common = smaller - len(vectors) * num_own
    common = _svd.decompose(_svd.mean(vectors).mul_(len(vectors)), first=num_common)
    own = []
    for vector in vectors:
        exact = vector.double()
        own.append(_svd.decompose(exact - common[0] @ (common[0].mT @ exact), first=num_own))
    left, values, right = zip(*own, common, strict=True)
    strength = torch.cat(values).sum() / smaller
    return (_svd.polar(torch.cat(left, 1)) @ _svd.polar(torch.cat(right, 0))).mul_(strength)
