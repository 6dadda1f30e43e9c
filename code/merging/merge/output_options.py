"""How a merged model is stored; imports no torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from merging.files.sizes import parse_size

_STORED = {"float32": "F32", "bfloat16": "BF16", "float16": "F16"}


@dataclass(frozen=True, kw_only=True)
class OutputOptions:
    """What the files of the result are like; part of the result."""

    dtype: Literal["float32", "bfloat16", "float16"] | None = None
    """Of merged weights; None: as in the base. What is copied keeps its own."""
    max_shard_size: str = "5GB"
    """Larger models are split into files of at most this size; a larger tensor has a file of its own."""

    def __post_init__(self) -> None:
        parse_size(self.max_shard_size, owner="output: max_shard_size")

    @property
    def max_shard_bytes(self) -> int:
        """``max_shard_size`` in bytes."""
        return parse_size(self.max_shard_size, owner="output: max_shard_size")

    @property
    def stored_dtype(self) -> str | None:
        """``dtype`` in the words of safetensors."""
        return None if self.dtype is None else _STORED[self.dtype]
