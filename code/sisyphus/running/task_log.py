"""The file ``log.TASK.ID``: what a task printed, in all of its runs."""

from __future__ import annotations

from pathlib import Path
from typing import BinaryIO

BANNER = "RETRY OR CONTINUE TASK"
"""Line between two runs."""


def open_log(path: str | Path) -> BinaryIO:
    """Open a log for another run, at its end."""
    log = Path(path).open("ab")  # noqa: SIM115 - the caller closes it
    if log.tell() > 0:
        log.write(f"{BANNER}\n".encode())
        log.flush()
    return log
