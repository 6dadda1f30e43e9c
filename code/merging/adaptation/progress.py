"""How far an adaptation is, for whoever reads it with :mod:`merging.progress`."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

_INTERVAL_S = 1.0


class Progress:
    """Appends a JSON line to a file about once a second; without a file it does nothing."""

    def __init__(self, file: str | os.PathLike[str] | None, *, num_steps: int) -> None:
        """Begin; ``num_steps`` are all there will be."""
        self._file = Path(file) if file is not None else None
        self._num_steps = num_steps
        self._num_done = 0
        self._started = self._written = time.monotonic()

    def advance(self, loss: float) -> None:
        """Count one step that is done, whose loss was this."""
        self._num_done += 1
        now = time.monotonic()
        is_last = self._num_done == self._num_steps
        if self._file is None or (now - self._written < _INTERVAL_S and not is_last):
            return
        self._written = now
        line = {
            "step": self._num_done,
            "total_steps": self._num_steps,
            "loss": loss,
            "seconds_left": round((self._num_steps / self._num_done - 1) * (now - self._started), 1),
        }
        with self._file.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(line) + "\n")
