"""The file ``usage.TASK.ID``: what a task used, and which process runs it.

The file is a Python dict literal, so that either manager reads the other's. Beside upstream's keys it holds
``process_start``: a pid alone is not enough to say that a task still runs, because pids are given out again.
"""

from __future__ import annotations

import ast
import os
import pprint
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sisyphus.atomic_files import write_atomically

GB = 1024.0**3
"""Bytes in the unit of all memory values of the usage file and of requirements."""


def read(path: str | os.PathLike[str]) -> dict[str, Any] | None:
    """The content of a usage file; None if there is none, or if it is not a complete dict."""
    try:
        usage = ast.literal_eval(Path(path).read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (SyntaxError, ValueError):  # half written by a killed process that does not write atomically
        return None
    return usage if isinstance(usage, dict) else None


def write(path: str | os.PathLike[str], usage: Mapping[str, Any]) -> None:
    """Write a usage file in one step: readers see the old content or the new one."""
    write_atomically(os.fspath(path), f"{pprint.pformat(dict(usage))}\n".encode())


def hostname() -> str:
    """Name of this machine, as written to usage files."""
    return os.uname().nodename


def process_start(pid: int) -> float | None:
    """When the process started: a number that tells it from later ones with the same pid.

    Returns:
        Clock ticks since boot on Linux, seconds since the epoch elsewhere; None if no such process lives. A
        zombie does not live.
    """
    if not Path("/proc/self/stat").exists():
        return _process_start_psutil(pid)
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return None
    fields = stat.rpartition(")")[2].split()  # the command in parentheses may hold blanks and parentheses
    state, start = fields[0], fields[19]
    return None if state in "ZX" else float(start)


def _process_start_psutil(pid: int) -> float | None:
    import psutil  # only where there is no /proc: the import takes a tenth of a worker's start

    try:
        process = psutil.Process(pid)
        return None if process.status() == psutil.STATUS_ZOMBIE else float(process.create_time())
    except psutil.NoSuchProcess:
        return None


def started_at() -> float:
    """When this process started, in seconds since the epoch."""
    start = process_start(os.getpid())
    assert start is not None, "this process lives"
    return time.time() - _age_s(start)


def _age_s(start: float) -> float:
    """Seconds since a process started, from what ``process_start`` says of it."""
    if not hasattr(time, "CLOCK_BOOTTIME"):
        return time.time() - start
    return time.clock_gettime(time.CLOCK_BOOTTIME) - start / os.sysconf("SC_CLK_TCK")


def running_for_s(usage: Mapping[str, Any]) -> float | None:
    """For how many seconds the process that wrote the file has been running on this machine.

    Returns:
        None if it does not run here, or if the file does not say when it started (upstream's do not).
    """
    start, pid = usage.get("process_start"), usage.get("pid")
    if start is None or not isinstance(pid, int) or not is_local(usage) or process_start(pid) != start:
        return None
    return _age_s(start)


def identify(pid: int) -> dict[str, Any]:
    """The part of a usage file that names a living process of this machine."""
    return {"host": hostname(), "pid": pid, "process_start": process_start(pid)}


def is_local(usage: Mapping[str, Any]) -> bool:
    """Whether the file was written on this machine."""
    return usage.get("host") == hostname()


def is_alive(usage: Mapping[str, Any], *, job_dir: str, task_name: str) -> bool:
    """Whether the process that wrote the file still runs on this machine.

    Args:
        usage: content of the usage file.
        job_dir: directory of the job as in the worker's command line; for files without ``process_start``,
            which upstream writes, the command line is compared instead.
        task_name: name of the task, likewise.
    """
    pid = usage.get("pid")
    if not isinstance(pid, int) or not is_local(usage):
        return False
    start = process_start(pid)
    if start is None:
        return False
    recorded = usage.get("process_start")
    if recorded is not None:
        return bool(recorded == start)
    call = _command_line(pid)
    return "worker" in call and task_name in call and any(job_dir in part for part in call)


def _command_line(pid: int) -> list[str]:
    import psutil

    try:
        return list(psutil.Process(pid).cmdline())
    except (psutil.NoSuchProcess, psutil.AccessDenied):
        return []
