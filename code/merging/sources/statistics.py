"""Curvatures and other statistics as sources."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from merging.errors import CheckpointError
from merging.files.checkpoints import TensorInfo
from merging.methods._seam import Factors
from merging.sources import Source, read_for_computing

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Bias:
    """What the last input of a layer's factors belongs to."""

    name: str
    """Of the bias."""
    transposed: bool = False
    """The weight is stored as (inputs, outputs)."""


class Statistic(ABC):
    """What a method is given beside tensors of the parameter's own shape: factors, blocks, mask Fishers."""

    label: str
    """Names the statistic in error messages."""

    @property
    @abstractmethod
    def names(self) -> Collection[str]:
        """Parameters that it says something of; empty for what is of the whole model."""

    @abstractmethod
    def of(self, name: str) -> Any:
        """What ``merge`` gets for a parameter; None where nothing is known of it."""

    @property
    def biases(self) -> Mapping[str, Bias]:
        """The bias that factors are of, too, by weight."""
        return {}

    def of_layer(self, weight: str) -> Any:
        """What ``merge`` gets for a weight and its bias as one matrix, (outputs, inputs + 1)."""
        return self.of(weight)


class MemoryStatistic(Statistic):
    """Statistics in memory, by name of the parameter."""

    def __init__(self, values: Mapping[str, Any], *, label: str) -> None:
        """Wrap ``values``: :class:`merging.methods._seam.Factors`, or tensors."""
        self.label = label
        self._values = values

    @property
    def names(self) -> Collection[str]:
        """Parameters that it says something of."""
        return self._values.keys()

    def of(self, name: str) -> Any:
        """What is known of one parameter, or None."""
        value = self._values.get(name)
        return of_weight(value) if isinstance(value, Factors) else value

    @property
    def biases(self) -> Mapping[str, Bias]:
        """See the base class."""
        return {
            name: Bias(value.bias, value.transposed)
            for name, value in self._values.items()
            if isinstance(value, Factors) and value.bias is not None
        }

    def of_layer(self, weight: str) -> Any:
        """See the base class."""
        value = self._values.get(weight)
        return None if value is None else of_weight_and_bias(value)


def of_weight(factors: Factors) -> Factors:
    """The factors of the weight by itself: without what the bias adds to them."""
    if factors.bias is None:
        return factors
    return replace(factors, inputs=factors.inputs[:-1, :-1].contiguous(), bias=None)


def of_weight_and_bias(factors: Factors) -> Factors:
    """The factors of [W b], (outputs, inputs + 1), however the weight is stored."""
    return replace(factors, bias=None, transposed=False)


class WholeModelStatistic(Statistic):
    """One value for the whole model, in memory."""

    def __init__(self, value: Any, *, label: str) -> None:
        """Wrap ``value``, e.g. a :class:`merging.methods._seam.MaskFisher`."""
        self.label = label
        self._value = value

    @property
    def names(self) -> Collection[str]:
        """None in particular."""
        return ()

    def of(self, name: str) -> Any:
        """The same for every parameter."""
        return self._value


class HessianSource:
    """A diagonal curvature, times a factor: stored means are multiplied by the size of the training set."""

    def __init__(self, source: Source, *, scale: float = 1.0) -> None:
        """Multiply ``source`` by ``scale``."""
        self.label = source.label
        self.scale = scale
        self.stored = source
        """What is scaled."""

    @property
    def tensors(self) -> Mapping[str, TensorInfo]:
        """Shape and dtype of every tensor."""
        return self.stored.tensors

    def read(self, name: str) -> Tensor:
        """One scaled diagonal; see ``read_piece``."""
        info = self.tensors[name]
        return self.read_piece(name, 0, info.num_elements).reshape(info.shape)

    def read_piece(self, name: str, start: int, stop: int) -> Tensor:
        """Elements of one scaled diagonal, counted row by row.

        Raises:
            CheckpointError: some are below 0, which no diagonal of a Fisher or GGN has.
        """
        piece, is_own = read_for_computing(self.stored, name, start, stop)
        return self.scaled(name, piece, is_own=is_own)[0]

    def scaled(self, name: str, piece: Tensor, *, is_own: bool) -> tuple[Tensor, float]:
        """Check and scale what was read; and give the smallest element, before scaling."""
        lowest = float(piece.amin()) if piece.numel() else 0.0
        if lowest < 0:
            raise CheckpointError(
                f"{self.label}: {name!r} has entries below 0. Curvatures must be >= 0: floor them at 0."
            )
        if self.scale == 1:
            return piece, lowest
        return piece.mul_(self.scale) if is_own else piece * self.scale, lowest
