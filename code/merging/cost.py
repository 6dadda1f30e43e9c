"""What a merge will take: memory, disk and time, known from headers before it starts. Imports no torch."""

from __future__ import annotations

import dataclasses
import os
from dataclasses import dataclass

from merging.sizes import size_text

PROCESS_BYTES = 320 * 2**20
"""What Python, torch and the headers take before the first tensor, with some room; measured 230 MiB."""

BYTES_PER_SECOND = 500 * 10**6
"""Assumed for reading and writing together: a network disk, or a slow local one. Files that are in the page
cache are merged ten times as fast."""

STARTING_SECONDS = 3.0
"""Assumed for imports and headers."""


@dataclass(frozen=True)
class Cost:
    """An estimate, on the safe side."""

    memory_bytes: int
    """Largest memory of the process, imports included."""
    read_bytes: int
    """Of all inputs, as often as they are gone through."""
    written_bytes: int
    """Room that the output needs on its disk."""

    @property
    def seconds(self) -> float:
        """At ``BYTES_PER_SECOND``; methods that decompose matrices take longer."""
        return STARTING_SECONDS + (self.read_bytes + self.written_bytes) / BYTES_PER_SECOND

    def as_json(self) -> dict[str, float]:
        """As ``merge.json`` holds it."""
        return dataclasses.asdict(self) | {"seconds": round(self.seconds, 1)}

    def __str__(self) -> str:
        return (
            f"estimate: up to {size_text(self.memory_bytes)} of memory, {size_text(self.written_bytes)} of "
            f"disk; reads {size_text(self.read_bytes)}, about {self.seconds:.0f} s where files are read and "
            f"written at {size_text(BYTES_PER_SECOND)}/s"
        )


def num_cpus() -> int:
    """Processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
