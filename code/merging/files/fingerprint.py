"""A name for the content of a model's weights that costs milliseconds: a hash of samples.

Hashing every byte takes longer than merging. So small tensors are hashed in full, and of large ones blocks at
evenly spaced places, the first and the last bytes among them. Training moves (nearly) every element of what
it moves, so another training, another dtype or another order is seen. **A change of a few elements of a large
tensor may not be**: a fingerprint tells models apart that were made differently, and is no protection against
somebody who edits single numbers.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from merging.files.checkpoints import TensorInfo

PREFIX = "samples:"
"""Starts every fingerprint; what has none was made by an earlier version, of all bytes."""

_NUM_BLOCKS = 8
_BLOCK_BYTES = 4096


def fingerprint(tensors: Mapping[str, TensorInfo], read: Callable[[str, int, int], bytes]) -> str:
    """Name the content of tensors, whatever files they are spread over.

    Args:
        tensors: all of them.
        read: gives bytes ``start:stop`` of a tensor, as safetensors stores it.

    Returns:
        ``samples:`` and the hex SHA-256 of, for each tensor by name: name, dtype, shape, and its bytes, or 8
        blocks of 4 KiB of them where there are more than that.
    """
    whole = hashlib.sha256()
    for name in sorted(tensors):
        info = tensors[name]
        whole.update(f"{name} {info.dtype} {list(info.shape)}\n".encode())
        for start, stop in blocks(info.num_bytes):
            whole.update(read(name, start, stop))
    return PREFIX + whole.hexdigest()


def blocks(num_bytes: int) -> list[tuple[int, int]]:
    """What is looked at of a tensor of that size: first and end of each block."""
    if num_bytes <= _NUM_BLOCKS * _BLOCK_BYTES:
        return [(0, num_bytes)] if num_bytes else []
    last = num_bytes - _BLOCK_BYTES
    starts = (number * last // (_NUM_BLOCKS - 1) for number in range(_NUM_BLOCKS))
    return [(start, start + _BLOCK_BYTES) for start in starts]
