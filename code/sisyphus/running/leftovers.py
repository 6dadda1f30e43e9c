"""Processes that an earlier run of a task left, and that would work in its folder beside the next one."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from sisyphus.running import usage

if TYPE_CHECKING:
    import psutil


_PATIENCE_S = 10.0
"""How long a killed process may need to end; one that waits for a dead disk does not end."""


def end_leftovers(used: Mapping[str, Any], job_dir: str) -> list[int]:
    """Kill what is left of the process group of an earlier run on this machine.

    The number of a group may have been given out again, so only processes count that work in the job's folder
    or write to one of its files.

    Args:
        used: usage file of the earlier run, whose process is dead; empty if there was none.
        job_dir: the job's folder.

    Returns:
        The processes that were killed.
    """
    group = used.get("process_group", used.get("pid"))
    if not isinstance(group, int) or not usage.is_local(used) or not _group_exists(group):
        return []
    import psutil  # rarely needed: the import takes a tenth of a worker's start

    folder = os.path.realpath(job_dir)
    left = [each for each in _members(group) if each.pid != os.getpid() and _belongs_to(each, folder)]
    for process in left:
        with suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(left, _PATIENCE_S)
    killed = [process.pid for process in left]
    if killed:
        logging.warning("Ended what an earlier run left running in %s: processes %s", job_dir, killed)
    return killed


def _group_exists(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # somebody else's
        return False
    return True


def _members(group: int) -> Iterator[psutil.Process]:
    import psutil

    for process in psutil.process_iter():
        try:
            if os.getpgid(process.pid) == group:
                yield process
        except (ProcessLookupError, PermissionError):
            continue


def _belongs_to(process: psutil.Process, folder: str) -> bool:
    import psutil

    try:
        places = [process.cwd(), *(file.path for file in process.open_files())]
    except psutil.Error:  # it has just ended, or belongs to somebody else
        return False
    return any(place == folder or place.startswith(folder + os.sep) for place in places)
