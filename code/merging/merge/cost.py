"""What a merge will take: memory, disk and time, known from headers before it starts. Imports no torch."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from merging import methods
from merging.files.checkpoints import open_checkpoint
from merging.files.sizes import size_text

PathLike = str | os.PathLike[str]

PIECE = 2**17
"""Elements that an elementwise method gets at a time. Small enough to stay near the processor and to be used
again in place of asking for memory, which is most of the time of a merge by whole tensors; large enough that
the interpreter has little to do.
Sums that methods take over a parameter depend on it in the last bits, so it is the same on every machine."""

PROCESS_BYTES = 320 * 2**20
"""What Python, torch and the headers take before the first tensor, with some room; measured 230 MiB."""

LOOKUP_BYTES = 192 * 2**20
"""What transformers takes where it is asked which weights are stored transposed; measured 175 MiB."""

CHILD_BYTES = 96 * 2**20
"""What each further process of a merge takes before its first tensor."""

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


def from_headers(
    *,
    method: str,
    options: Mapping[str, Any],
    base: PathLike | None,
    models: Mapping[str, PathLike],
    extras: Mapping[str, Any],
) -> Cost:
    """Estimate a merge of folders in milliseconds, without torch: what a job asks a cluster for.

    Larger than what the merge itself says once it is open: all tensors count as merged.

    Args:
        method: a file in ``merging/methods``.
        options: fields of its ``Options``.
        base: folder, or None.
        models: folder by task.
        extras: other inputs, as ``merging.merge.streaming.merge_checkpoints`` takes them.

    Raises:
        CheckpointError: a folder is incomplete or damaged.
    """
    module = methods.load(method)
    granularity = methods.granularity(method, methods.read_options(method, options).common)
    folders = [*models.values(), *([base] if base is not None else [])]
    statistics = [
        its["hessian"] if isinstance(its, Mapping) else its
        for value in extras.values()
        for its in (value.values() if isinstance(value, Mapping) and "hessian" not in value else [value])
    ]
    template = open_checkpoint(folders[-1], label="model").tensors
    largest = max((info.num_elements for info in template.values()), default=0)
    working = max(
        (methods.working_bytes(module, its.shape, len(models)) for its in template.values()), default=0
    )
    at_once = min(largest, PIECE) if granularity == "elements" else largest
    num_bytes = sum(
        file.stat().st_size
        for folder in [*folders, *statistics]
        for file in Path(folder).iterdir()
        if file.suffix in (".safetensors", ".bin")
    )
    looked_up = LOOKUP_BYTES if hasattr(module, "needs_layout") else 0
    num_passes = 1 + hasattr(module, "summarize") + hasattr(module, "measure")
    num_tensors = 1 + len(folders) + len(statistics)
    return Cost(
        memory_bytes=PROCESS_BYTES + looked_up + num_cpus() * (8 * num_tensors * at_once + working),
        read_bytes=num_passes * num_bytes,
        written_bytes=sum(info.num_bytes for info in template.values()),
    )


def num_cpus() -> int:
    """Processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
