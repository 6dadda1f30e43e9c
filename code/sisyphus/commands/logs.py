"""``sis logs``: what the tasks of a job printed, also after cleaning; with ``-f``, what they print now."""

from __future__ import annotations

import argparse
import sys
import time

from sisyphus import global_settings as gs
from sisyphus.commands import jobs_by_name
from sisyphus.errors import SisyphusError
from sisyphus.job_dir import JobDir
from sisyphus.running import usage
from sisyphus.terminal.answers import say
from sisyphus.view import job_logs

_PERIOD_S = 0.2
"""Between two looks at a log that grows."""

_CHUNK = 1 << 16


def run(args: argparse.Namespace) -> int:
    """Run the command.

    Returns:
        Exit code: 0, or with ``-f`` 1 if the task that was followed failed.

    Raises:
        SisyphusError: no log is there, or the task is not one of the job's.
    """
    folder = jobs_by_name.find(args.job, args.config_files).dir
    if args.follow:
        return _follow(folder, args)
    logs = _choose(job_logs.names(folder), args, folder)
    for name in logs:
        if len(logs) > 1:
            say(f"==> {folder.entry(name)} <==")
        _write(job_logs.read(folder, name), args.lines)
    return 0


def _choose(names: list[str], args: argparse.Namespace, folder: JobDir) -> list[str]:
    """The logs of the task and id that were asked for; without any, the last one."""
    if not names:
        raise SisyphusError(f"{folder.path} has no log: no task of it was started yet.")
    if args.task is None:
        return [names[-1]]
    chosen = [name for name in names if name.split(".")[1] == args.task]
    if args.task_id is not None:
        chosen = [name for name in chosen if name.split(".")[2] == str(args.task_id)]
    if not chosen:
        raise SisyphusError(f"{folder.path} has no such log. Its logs: {', '.join(names)}.")
    return chosen


def _write(content: bytes, num_lines: int | None) -> None:
    if num_lines is not None:
        content = b"".join(content.splitlines(keepends=True)[-num_lines:]) if num_lines > 0 else b""
    sys.stdout.flush()
    sys.stdout.buffer.write(content)
    sys.stdout.buffer.flush()


def _follow(folder: JobDir, args: argparse.Namespace) -> int:
    """Write what comes, from the end of the log on, until the task ends or is followed by another one."""
    while not (names := job_logs.names(folder)):
        if folder.is_finished():
            return 0
        time.sleep(_PERIOD_S)
    name = _choose(names, args, folder)[-1]
    if name not in folder.names():  # packed: nothing will come any more
        _write(job_logs.read(folder, name), args.lines)
        return 0
    task = name.removeprefix(f"{gs.JOB_LOG}.")
    with open(folder.entry(name), "rb") as log:
        _write(log.read(), 10 if args.lines is None else args.lines)
        while True:
            ended = _end(folder, task)  # looked at first: what was written before the end is still shown
            while content := log.read(_CHUNK):
                _write(content, None)
            if ended is not None:
                return ended
            time.sleep(_PERIOD_S)


def _end(folder: JobDir, entry: str) -> int | None:
    """The exit code for a task that ended; None while it may go on.

    Args:
        folder: of the job.
        entry: ``TASK.ID``.
    """
    dead = _is_dead(folder, entry)  # asked first: a process that ends makes its marker before
    names = folder.names()
    if f"{gs.STATE_FINISHED}.{entry}" in names or folder.is_finished():
        return 0
    return 1 if dead or not names or f"{gs.STATE_ERROR}.{entry}" in names else None


def _is_dead(folder: JobDir, entry: str) -> bool:
    """Whether the process that ran a task on this machine is gone: it was killed if it left no marker."""
    used = usage.read(folder.entry(f"{gs.PLOGGING_FILE}.{entry}"))
    if used is None or not usage.is_local(used):
        return False
    return not usage.is_alive(used, job_dir=folder.path, task_name=entry.rpartition(".")[0])
