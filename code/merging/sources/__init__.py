"""Where the tensors of a merge come from: folders, memory, statistics, views of other sources.

All are read by name, a piece at a time.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Protocol

from merging.errors import CheckpointError
from merging.files.checkpoints import TensorInfo

if TYPE_CHECKING:
    from torch import Tensor


class Source(Protocol):
    """Tensors by name; ``merging.files.checkpoints.Checkpoint`` is one."""

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


def read_for_computing(source: Source, name: str, start: int, stop: int) -> tuple[Tensor, bool]:
    """Read elements of one tensor as a vector of float32, or float64 where it is stored so.

    Returns:
        The elements, and whether the caller may write into them.
    """
    read = getattr(source, "read_for_computing", None)
    if read is not None:  # files: numbers are converted on the way, through a buffer that is used again
        return read(name, start, stop), True
    return for_computing(source.read_piece(name, start, stop)), False


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
