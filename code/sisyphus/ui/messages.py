"""Log lines while the terminal belongs to the interface: kept for it, and written to a file."""

from __future__ import annotations

import logging
import os
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager

from sisyphus import global_settings as gs
from sisyphus.terminal.logs import LevelFormatter

_MOST_KEPT = 5000


class Messages(logging.Handler):
    """Keeps log lines until they are taken; any thread may log."""

    def __init__(self) -> None:
        super().__init__()
        self.setFormatter(LevelFormatter(coloured=False))
        self._new: deque[tuple[int, str]] = deque(maxlen=_MOST_KEPT)

    def emit(self, record: logging.LogRecord) -> None:
        """Keep one line."""
        self._new.append((record.levelno, self.format(record)))

    def take(self) -> list[tuple[int, str]]:
        """Return level and text of the lines since the last call."""
        taken = []
        while self._new:
            taken.append(self._new.popleft())
        return taken


@contextmanager
def kept_off_the_terminal(file: bool) -> Iterator[Messages]:
    """While this is held, log lines go to what it gives instead of to the terminal.

    Args:
        file: write them to ``log/manager.log.<time>``, too.
    """
    messages = Messages()
    root = logging.getLogger()
    before = root.handlers
    handlers: list[logging.Handler] = [messages]
    if file:
        handlers.append(_to_file())
    root.handlers = handlers
    try:
        yield messages
    finally:
        root.handlers = before
        for handler in handlers:
            handler.close()


def _to_file() -> logging.FileHandler:
    folder = os.path.join(gs.BASE_DIR, "log")
    os.makedirs(folder, exist_ok=True)
    name = f"manager.log.{time.strftime('%Y%m%d-%H%M%S')}"
    handler = logging.FileHandler(os.path.join(folder, name), encoding="utf-8")
    handler.setFormatter(LevelFormatter(coloured=False))
    return handler
