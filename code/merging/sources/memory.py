"""Tensors in memory as a source."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from merging.files.checkpoints import TensorInfo, dtype_name

if TYPE_CHECKING:
    from torch import Tensor


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
