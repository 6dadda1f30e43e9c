"""With what a merge is computed; never part of its result. Imports no torch."""

from __future__ import annotations

import re
from dataclasses import dataclass

from merging.errors import OptionError
from merging.files.sizes import parse_size


@dataclass(frozen=True, kw_only=True)
class ComputeOptions:
    """Memory, device and threads of a merge."""

    max_memory: str | None = None
    """Limit of what the process holds, imports included, such as "2GiB"; None: no limit but what the
    default pieces need."""
    device: str = "cpu"
    """"cpu", "cuda" or "cuda:N"."""
    num_threads: int | None = None
    """Threads that read, compute and write; None: as many as torch would use."""

    def __post_init__(self) -> None:
        if self.max_memory is not None:
            parse_size(self.max_memory, owner="compute: max_memory")
        if not re.fullmatch(r"cpu|cuda(:\d+)?", self.device):
            raise OptionError(f"compute: device must be 'cpu', 'cuda' or 'cuda:N', got {self.device!r}.")
        if self.num_threads is not None and self.num_threads < 1:
            raise OptionError(f"compute: num_threads must be >= 1, got {self.num_threads}.")

    @property
    def max_memory_bytes(self) -> int | None:
        """``max_memory`` in bytes."""
        return None if self.max_memory is None else parse_size(self.max_memory, owner="compute: max_memory")
