"""What a person sees of a graph: counts, lines for jobs, excerpts of logs. Reads, and changes nothing."""

from __future__ import annotations

import logging
import os
import re
import sys
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import sisyphus.global_settings as gs
from sisyphus.job_status import tasks_of
from sisyphus.running import usage

if TYPE_CHECKING:
    from sisyphus.engines.base import EngineBase
    from sisyphus.job import Job

States = Mapping[str, Collection[Any]]
"""Jobs by state; under ``input_path`` and ``input_missing`` absolute paths."""

ORDER = (
    gs.STATE_INPUT_PATH,
    gs.STATE_FINISHED,
    gs.STATE_WAITING,
    gs.STATE_QUEUE,
    gs.STATE_RUNNING,
    gs.STATE_RUNNABLE,
    gs.STATE_HOLD,
    gs.STATE_INTERRUPTED_RESUMABLE,
    gs.STATE_INTERRUPTED_NOT_RESUMABLE,
    gs.STATE_UNKNOWN,
    gs.STATE_QUEUE_ERROR,
    gs.STATE_RETRY_ERROR,
    gs.STATE_ERROR,
    gs.STATE_INPUT_MISSING,
)
"""Worst states last, where the eye falls."""

FAILED = (
    gs.STATE_INPUT_MISSING,
    gs.STATE_ERROR,
    gs.STATE_RETRY_ERROR,
    gs.STATE_QUEUE_ERROR,
    gs.STATE_INTERRUPTED_NOT_RESUMABLE,
)
"""States that do not go away by waiting."""

_ONLY_VERBOSE = (gs.STATE_INPUT_PATH, gs.STATE_FINISHED, gs.STATE_WAITING)
_WARNINGS = (gs.STATE_INTERRUPTED_RESUMABLE, gs.STATE_UNKNOWN)
TAIL_BYTES = 1 << 16
"""Of a log that are worth reading to show its end."""
_LONGEST_LINE = 500
"""Letters of a log line that are worth showing; the end of a traceback is what counts, and it is short."""

_CONTROL = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|[\x00-\x08\x0b-\x1f\x7f-\x9f]")
"""Colours, carriage returns and what else would do something to a terminal."""

HOW_TO_RETRY = {
    gs.STATE_ERROR: "repaired? sis retry JOB, or start the manager with -co, which runs all of them anew",
    gs.STATE_INTERRUPTED_NOT_RESUMABLE: (
        "sis retry JOB, or start the manager with -cio, which runs all of them anew"
    ),
    gs.STATE_RETRY_ERROR: "repaired? sis retry JOB, and start the manager again",
    gs.STATE_QUEUE_ERROR: "the engine said above why: mend it, or ask for less; then start the manager again",
}
"""What a person can do, by state."""


@dataclass(frozen=True)
class Line:
    """One entry of the overview; that of a failed job has several lines."""

    level: int
    text: str


def counts(states: States) -> dict[str, int]:
    """Number of jobs in each state that has any, alphabetical, without input paths."""
    return {
        state: len(states[state])
        for state in sorted(states)
        if states[state] and state != gs.STATE_INPUT_PATH
    }


def unfinished(states: States) -> dict[str, Collection[Any]]:
    """The states without finished jobs."""
    return {state: jobs for state, jobs in states.items() if state != gs.STATE_FINISHED}


def counts_text(states: States) -> str:
    """Counts as ``error(1) running(2) waiting(3)``."""
    return " ".join(f"{state}({number})" for state, number in counts(states).items())


def level_of(state: str) -> int:
    """How urgent a state is, as a level of logging."""
    if state in FAILED:
        return logging.ERROR
    return logging.WARNING if state in _WARNINGS else logging.INFO


def lines(states: States, engine: EngineBase, *, verbose: bool = False) -> Iterator[Line]:
    """The overview: where we are, one line for each unfinished job, the counts.

    Args:
        states: jobs by state.
        engine: asked for the tasks of failed jobs.
        verbose: also waiting and finished jobs, and all targets of a job.
    """
    yield Line(logging.INFO, f"Experiment directory: {Path.cwd()}      Call: {' '.join(sys.argv)}")
    for state in ORDER:
        if (state in _ONLY_VERBOSE and not verbose) or (state == gs.STATE_HOLD and not gs.PRINT_HOLD):
            continue
        for item in sorted(states.get(state, ()), key=str):
            text = [f"{state}: {describe(item, state=state, verbose=verbose)}"]
            if state in FAILED and gs.PRINT_ERROR and not isinstance(item, str):
                text += failure(item, engine)
            yield Line(level_of(state), "\n".join(text))
    yield Line(logging.INFO, counts_text(states))


def describe(item: Any, *, state: str = "", verbose: bool = False) -> str:
    """A job with its targets, display name and progress; a path as it is."""
    if isinstance(item, str):
        return item
    parts = [str(item), *_targets(item, verbose)]
    if gs.SHOW_VIS_NAME_IN_MANAGER and item.get_vis_name() is not None:
        parts.append(f"[{item.get_vis_name()}]")
    if state == gs.STATE_RUNNING and (progress := progress_text(item)):
        parts.append(f"{{{progress}}}")
    if state == gs.STATE_RUNNING and (age := _age_of_old_log(item)):
        parts.append(f"[log is {duration(age)} old]")
    return " ".join(parts)


def short_name(job: Any) -> str:
    """Alias or id of a job, and its display name: what a line of a log has room for."""
    name = str(job.get_one_alias() or job._sis_id())
    vis_name = job.get_vis_name() if gs.SHOW_VIS_NAME_IN_MANAGER else None
    return name if vis_name is None else f"{name} [{vis_name}]"


def _targets(job: Job, verbose: bool) -> list[str]:
    """The targets that need a job; unless verbose, as many as the settings say, and a count."""
    names = sorted(job._sis_needed_for_which_targets or ())
    shown = len(names) if verbose else int(gs.SHOW_JOB_TARGETS)
    texts = [f"<target: {name}>" for name in names[:shown]]
    return [*texts, f"<and {len(names) - shown} more>"] if 0 < shown < len(names) else texts


def _age_of_old_log(job: Job) -> float | None:
    """Seconds since a running job wrote its log, if that is longer ago than the settings find normal."""
    if gs.PRINT_OLD_LOG_FILE_RUNNING is None:
        return None
    task = job._sis_next_task()
    logs = [] if task is None else [Path(task.path(gs.ENGINE_LOG, task_id)) for task_id in task.task_ids()]
    age = time.time() - max((log.stat().st_mtime for log in logs if log.exists()), default=time.time())
    return age if age > gs.PRINT_OLD_LOG_FILE_RUNNING else None


def progress_text(job: Job) -> str:
    """What the job says of itself while it runs: fraction done and info, as far as it tells."""
    fraction = fraction_done(job)
    parts = ["" if fraction is None else f"{fraction:.0%}", info_text(job)]
    return " ".join(filter(None, parts))


def info_text(job: Job) -> str:
    """What ``job.info()`` says; empty if nothing."""
    info = _answer(job.info)
    return "" if info is None else str(info)


def fraction_done(job: Job) -> float | None:
    """How much of the job is done, 0..1, if it tells."""
    fraction = _answer(job.completed_fraction)
    return None if fraction is None else min(max(float(fraction), 0.0), 1.0)


def _answer(question: Callable[[], Any]) -> Any:
    """What the code of a recipe answers; nothing if it fails, since it is asked for display only."""
    try:
        return question()
    except Exception as error:  # noqa: BLE001 - any code of a recipe may stand behind it; the manager goes on
        logging.debug("%s failed: %r", getattr(question, "__qualname__", question), error)
        return None


def failure(job: Job, engine: EngineBase) -> list[str]:
    """Lines that say why a job failed: the config line that made it, the end of the logs of failed tasks."""
    why = [f"    made at {job._sis_created_at}"] if job._sis_created_at else []
    if job._sis_broken is not None:
        why.append(f"    {job._sis_broken}")
    for log in failed_logs(job, engine)[: gs.PRINT_ERROR_TASKS]:
        tail = last_lines(log, gs.PRINT_ERROR_LINES)
        if tail:
            why.append(f"    end of {log}:")
            why += [f"    | {text}" for text in tail]
    return why


def failed_logs(job: Job, engine: EngineBase) -> list[str]:
    """The logs of the failed tasks of a job, relative to the project, as far as there are any."""
    paths = (task.path(gs.ENGINE_LOG, task_id) for task, task_id in _failed_tasks(job, engine))
    return [os.path.relpath(path) for path in paths if Path(path).exists()]


def _failed_tasks(job: Job, engine: EngineBase) -> list[tuple[Any, int]]:
    if not job._sis_setup():
        return []
    return [
        (task, task_id)
        for task in tasks_of(job)
        for task_id in task.task_ids()
        if task.state(engine, task_id) in FAILED
    ]


def last_lines(path: str, number: int) -> list[str]:
    """The last lines of a text file; none if it cannot be read."""
    try:
        with Path(path).open("rb") as file:
            file.seek(0, os.SEEK_END)
            file.seek(max(0, file.tell() - TAIL_BYTES))
            content = file.read()
    except OSError:
        return []
    return showable_lines(content, number)


def showable_lines(content: bytes, number: int) -> list[str]:
    """The last lines of what a task printed, without what would disturb a terminal."""
    text = content.decode(errors="replace")
    lines = text.removesuffix("\n").split("\n") if text and number > 0 else []
    return [showable(line) for line in lines[-number:]]


def showable(line: str) -> str:
    """Return a line of a log without what would disturb a terminal; of a progress bar, its last state."""
    text = _CONTROL.sub(" ", line.rstrip().rpartition("\r")[2]).rstrip()
    return text if len(text) <= _LONGEST_LINE else f"{text[:_LONGEST_LINE]} ..."


def without_controls(text: str) -> str:
    """Return a text without what would disturb a terminal, but with its line ends and tabs."""
    return _CONTROL.sub(" ", text.replace("\r\n", "\n"))


def used_seconds(job: Job) -> float:
    """How long the tasks of a job ran, in seconds; parallel ids of a task count as the longest of them."""
    total = 0.0
    for task in job._sis_tasks():
        files = (usage.read(task.path(gs.PLOGGING_FILE, task_id)) for task_id in task.task_ids())
        total += 3600 * max((used.get("used_time", 0.0) for used in files if used), default=0.0)
    return total


def running_seconds(job: Job) -> float:
    """For how long the current task of a job has been running, in seconds; 0 where that is not known."""
    task = job._sis_next_task()
    if task is None:
        return 0.0
    files = (usage.read(task.path(gs.PLOGGING_FILE, task_id)) for task_id in task.task_ids())
    return max((usage.running_for_s(used) or 0.0 for used in files if used), default=0.0)


def duration(seconds: float) -> str:
    """Seconds as a person writes them: ``0.4 s``, ``12 s``, ``3:05 min``, ``2:10 h``."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    if seconds < 100:
        return f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 100:
        return f"{minutes}:{rest:02d} min"
    return f"{minutes // 60}:{minutes % 60:02d} h"
