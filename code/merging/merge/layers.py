"""Weight and bias of a linear layer as one matrix, where the curvature is of both together.

In homogeneous coordinates the bias is the weight of one more input, which is always 1 (Martens and Grosse,
ICML 2015, arXiv:1503.05671): the layer is [W b], (outputs, inputs + 1), and its curvature couples the two.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from merging.files.checkpoints import TensorInfo
from merging.sources.statistics import Statistic

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class JointLayer:
    """A weight and the bias that is merged with it."""

    weight: str
    bias: str
    weight_shape: tuple[int, ...]
    transposed: bool
    """The weight is stored as (inputs, outputs), as GPT-2's Conv1D does."""

    @property
    def shape(self) -> tuple[int, int]:
        """(outputs, inputs + 1)."""
        first, rest = self.weight_shape[0], math.prod(self.weight_shape[1:])
        return (rest, first + 1) if self.transposed else (first, rest + 1)

    def join(self, weight: Tensor, bias: Tensor) -> Tensor:
        """[W b], a new tensor; the kernel of a convolution becomes rows of patches."""
        import torch

        return torch.cat([weight.T if self.transposed else weight.flatten(1), bias[:, None]], 1)

    def split(self, joined: Tensor) -> dict[str, Tensor]:
        """The two in their own shapes, by name; undoes ``join``."""
        rows = joined[:, :-1]
        weight = rows.T if self.transposed else rows
        return {self.weight: weight.reshape(self.weight_shape), self.bias: joined[:, -1]}


def joint_layers(
    statistics: Iterable[Statistic], names: Collection[str], infos: Mapping[str, TensorInfo]
) -> dict[str, JointLayer]:
    """Find the layers of which every statistic that knows the weight knows the bias, too.

    Args:
        statistics: what the method gets.
        names: what it may merge.
        infos: of these tensors.

    Returns:
        Layers by weight.
    """
    statistics = list(statistics)
    found: dict[str, JointLayer] = {}
    for weight in names:
        biases = {its.biases.get(weight) for its in statistics if weight in its.names}
        if len(biases) != 1:
            continue
        (bias,) = biases
        if bias is None or bias.name not in names:
            continue
        layer = JointLayer(weight, bias.name, infos[weight].shape, bias.transposed)
        if infos[bias.name].shape == layer.shape[:1]:
            found[weight] = layer
    return found
