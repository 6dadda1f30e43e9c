"""Hints from workers to the manager: a small file for each beginning and end, in one folder that it watches.

A hint says no more than "look at this task": the truth is in the job's own folder. So nothing is lost if a
hint is, and a process that was killed, which leaves none, is found by asking the scheduler.
"""

from __future__ import annotations

import atexit
import logging
import os
from contextlib import suppress

from sisyphus import global_settings as gs
from sisyphus.atomic_files import write_atomically

FOLDER = ".events"


def folder() -> str:
    """Where the hints of a work folder lie."""
    return os.path.join(gs.BASE_DIR, gs.WORK_DIR, FOLDER)


def announce(queue_name: str, task_id: int) -> None:
    """In a worker: hint now that the task begins, and once more when the process ends by itself."""
    path = os.path.join(folder(), f"{queue_name}.{task_id}")
    _drop(path)
    atexit.register(_drop, path)


def take() -> set[str]:
    """Queue names of the tasks that something happened to since this was last asked."""
    names = set()
    with suppress(FileNotFoundError):
        for entry in os.scandir(folder()):
            name, _, task_id = entry.name.rpartition(".")
            if name and task_id.isdecimal():
                with suppress(FileNotFoundError):
                    os.unlink(entry.path)
                names.add(name)
    return names


def _drop(path: str) -> None:
    try:
        os.makedirs(os.path.dirname(path), exist_ok=True)
        write_atomically(path, b"")
    except OSError as error:  # a full disk: the manager asks the scheduler anyway
        logging.debug("No hint for the manager: %s", error)
