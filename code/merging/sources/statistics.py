"""Curvatures and other statistics as sources."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from merging.checkpoints import TensorInfo
from merging.errors import CheckpointError
from merging.sources import Source, for_computing

if TYPE_CHECKING:
    from torch import Tensor


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
