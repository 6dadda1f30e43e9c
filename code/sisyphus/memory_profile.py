"""The log of the manager's memory, for finding out what grows (``gs.MEMORY_PROFILE_LOG``)."""

from __future__ import annotations

import time
import tracemalloc
from pathlib import Path

PERIOD_S = 60.0
"""Time between two entries."""

_NUM_LINES = 20


class MemoryProfile:
    """Writes the source lines that hold most memory, now and then.

    Args:
        path: the log; entries are added.
        period_s: seconds between two entries.
    """

    def __init__(self, path: str, period_s: float = PERIOD_S) -> None:
        self._path = Path(path)
        self._period_s = period_s
        self._written_at = float("-inf")
        tracemalloc.start()

    def note(self) -> None:
        """Write an entry if the last one is old enough."""
        if time.monotonic() - self._written_at < self._period_s:
            return
        self._written_at = time.monotonic()
        lines = tracemalloc.take_snapshot().statistics("lineno")[:_NUM_LINES]
        current, peak = tracemalloc.get_traced_memory()
        with self._path.open("a", encoding="utf-8") as log:
            log.write(
                f"{time.strftime('%Y-%m-%d %H:%M:%S')}: {current / 1e6:.1f} MB, peak {peak / 1e6:.1f} MB\n"
            )
            log.writelines(f"    {line}\n" for line in lines)
