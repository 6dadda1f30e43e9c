"""The processes of one estimate: ``accelerate launch`` or ``torchrun`` starts them, on one node or several.

Each adds up a share of the examples on its own device; nothing is exchanged before the end.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

import torch
from accelerate import PartialState
from torch import Tensor

_PATIENCE = timedelta(days=7)
"""How long the first process to finish waits for the last one; a share may take hours."""


@dataclass(frozen=True)
class Processes:
    """This process among all that work at an estimate."""

    rank: int
    """Number of this process, from 0."""
    count: int
    """How many there are."""
    device: torch.device
    """Where this one computes."""

    @property
    def is_first(self) -> bool:
        """Whether this process publishes the result."""
        return self.rank == 0

    def peak_gpu_bytes(self) -> int | None:
        """Most memory that tensors have had on this process's GPU since it joined; None: it has none."""
        return torch.cuda.max_memory_allocated(self.device) if self.device.type == "cuda" else None

    @contextmanager
    def first_goes_first(self) -> Iterator[None]:
        """Run the block in the first process, then in the others: they find in caches what it has made."""
        if not self.is_first:
            self.wait()
        yield
        if self.is_first:
            self.wait()

    def wait(self) -> None:
        """Until all have come here."""
        if self.count > 1:
            PartialState().wait_for_everyone()

    def add_up(self, total: Tensor) -> None:
        """Sum a tensor over the processes, in place; only the first one gets the result."""
        if self.count > 1 and total.numel():
            torch.distributed.reduce(total, dst=0)


def join() -> Processes:
    """Join the processes that the launcher started; a process that was not launched is alone."""
    has_gpu = torch.cuda.is_available()
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        processes = Processes(rank=0, count=1, device=torch.device("cuda" if has_gpu else "cpu"))
    else:
        state = PartialState(cpu=not has_gpu, timeout=_PATIENCE)
        processes = Processes(rank=state.process_index, count=state.num_processes, device=state.device)
    if has_gpu:
        torch.cuda.reset_peak_memory_stats(processes.device)
    return processes
