"""Full curvature of vectors: biases, norms, (IA)3 scales.

B = sum over examples of g g^T,    g = gradient of an example with respect to the vector, d elements
"""

from __future__ import annotations

from torch import Tensor

from merging.hessians import _rules
from merging.hessians._gradients import PerExample
from merging.hessians._per_example import SquaredGradients

MAX_SIZE = 4096
"""Longer vectors have no block: 64 MiB is enough for one."""


class OuterProducts(SquaredGradients):
    """Sum over examples and cotangents of g g^T, for each vector of the model.

    A vector is a parameter with at most one dimension that is longer than 1, and ``MAX_SIZE`` elements.

    Attributes:
        sums: (d, d) by vector; float32, or float64 for a float64 model.
        num_examples: how many examples were added.
    """

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shape of each vector."""
        return {name: tuple(parameter.shape) for name, parameter in self._parameters.items()}

    def _is_counted(self, parameter: Tensor) -> bool:
        return parameter.numel() == max(parameter.shape, default=1) <= MAX_SIZE

    def _zero(self, parameter: Tensor) -> Tensor:
        size = parameter.numel()
        return parameter.detach().new_zeros(size, size, dtype=_rules.accumulator(parameter.dtype))

    def _add_examples(self, total: Tensor, gradients: PerExample) -> None:
        gradients.add_outer(total)

    def _add_one(self, total: Tensor, gradient: Tensor) -> None:
        total.addr_(gradient.flatten(), gradient.flatten())

    def _squares(self, total: Tensor) -> Tensor:
        return total.diagonal()
