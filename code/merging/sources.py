"""Where the tensors of a merge come from: folders, memory, Hessians; all read by name, one at a time."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Protocol

from merging.checkpoints import TensorInfo, dtype_name
from merging.errors import CheckpointError

if TYPE_CHECKING:
    from torch import Tensor


class Source(Protocol):
    """Tensors by name; ``merging.checkpoints.Checkpoint`` is one."""

    @property
    def label(self) -> str:
        """Names the source in error messages: ``base``, ``models['sst2']``."""

    @property
    def tensors(self) -> Mapping[str, TensorInfo]:
        """Shape and dtype of every tensor."""

    def read(self, name: str) -> Tensor:
        """One tensor, which the caller does not write into."""

    def read_piece(self, name: str, start: int, stop: int) -> Tensor:
        """Elements of one tensor, counted row by row, as a vector that the caller does not write into."""


class MemoryCheckpoint:
    """Tensors in memory as a source."""

    def __init__(self, tensors: Mapping[str, Tensor], *, label: str) -> None:
        """Wrap ``tensors``, which are not copied; ``label`` names them in error messages."""
        self.label = label
        self._tensors = tensors

    @property
    def tensors(self) -> Mapping[str, TensorInfo]:
        """Shape and dtype of every tensor."""
        return {
            name: TensorInfo(dtype_name(tensor.dtype), tuple(tensor.shape))
            for name, tensor in self._tensors.items()
        }

    def read(self, name: str) -> Tensor:
        """A copy of one tensor."""
        return self._tensors[name].detach().clone()

    def read_piece(self, name: str, start: int, stop: int) -> Tensor:
        """Elements of one tensor, counted row by row."""
        return self._tensors[name].detach().reshape(-1)[start:stop]


class HessianSource:
    """A diagonal curvature, times a factor: stored means are multiplied by the size of the training set."""

    def __init__(self, source: Source, *, scale: float = 1.0) -> None:
        """Multiply ``source`` by ``scale``."""
        self.label = source.label
        self.scale = scale
        self._source = source

    @property
    def tensors(self) -> Mapping[str, TensorInfo]:
        """Shape and dtype of every tensor."""
        return self._source.tensors

    def read(self, name: str) -> Tensor:
        """One scaled diagonal; see ``read_piece``."""
        info = self.tensors[name]
        return self.read_piece(name, 0, info.num_elements).reshape(info.shape)

    def read_piece(self, name: str, start: int, stop: int) -> Tensor:
        """Elements of one scaled diagonal, counted row by row.

        Raises:
            CheckpointError: some are below 0, which no diagonal of a Fisher or GGN has.
        """
        piece = for_computing(self._source.read_piece(name, start, stop))
        if piece.numel() and float(piece.min()) < 0:
            raise CheckpointError(
                f"{self.label}: {name!r} has entries below 0. Curvatures must be >= 0: floor them at 0."
            )
        return piece if self.scale == 1 else piece * self.scale


def for_computing(tensor: Tensor) -> Tensor:
    """Give a tensor in float32, or as it is in float64."""
    return tensor if tensor.element_size() == 8 else tensor.float()


def check_finite(tensor: Tensor, name: str, owner: str, advice: str) -> Tensor:
    """Pass on a floating-point tensor without NaN and infinities.

    Raises:
        CheckpointError: there are some; the text names the tensor.
    """
    if math.isfinite(float(tensor.sum())):
        return tensor  # one fast pass; a sum that overflows though all is finite is looked at closely
    if tensor.isfinite().all():
        return tensor
    raise CheckpointError(f"{owner}: {name!r} has NaN or infinite values. {advice}")
