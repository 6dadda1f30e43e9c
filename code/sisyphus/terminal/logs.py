"""Log lines of all commands: ``[time] LEVEL: message``, coloured by level on a terminal."""

from __future__ import annotations

import logging
import sys
from typing import TextIO

_COLOURS = ((logging.ERROR, "31"), (logging.WARNING, "33"), (logging.INFO, "32"), (0, "35"))
"""Lowest level and its ANSI colour: red, yellow, green, magenta."""


class LevelFormatter(logging.Formatter):
    """Colours the message by its level.

    Args:
        coloured: False writes plain text.
    """

    def __init__(self, coloured: bool) -> None:
        super().__init__("[%(asctime)s] %(levelname)s: %(message)s")
        self.coloured = coloured

    def formatMessage(self, record: logging.LogRecord) -> str:
        """The line without a traceback."""
        if self.coloured:
            colour = next(code for level, code in _COLOURS if record.levelno >= level)
            record.message = f"\033[{colour}m{record.message}\033[0m"
        return super().formatMessage(record)


def set_up(level: int = logging.INFO, stream: TextIO | None = None) -> None:
    """Send log lines of at least ``level`` to ``stream`` (default: stderr)."""
    stream = sys.stderr if stream is None else stream
    handler = logging.StreamHandler(stream)
    handler.setFormatter(LevelFormatter(coloured=stream.isatty()))
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(level)
