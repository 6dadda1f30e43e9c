"""Running tasks that give no sign of life.

A worker writes its usage file again and again, whatever its task does; the task may write its log, and uses
cpu time. A task of which nothing of that moves is stopped, or waits for something that does not come. How
long is counted while this process looks: a machine that slept, clocks that differ, or a manager that was
stopped itself make no task look dead.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import sisyphus.global_settings as gs
from sisyphus.job_status import next_task

if TYPE_CHECKING:
    from sisyphus.engines.base import EngineBase
    from sisyphus.job import Job
    from sisyphus.task import Task

_LOOKS = 5
"""Looks that have to see the same before a task counts as hanging."""

_Key = tuple[str, str, int]
"""Job id, task, task id."""


@dataclass(frozen=True)
class Hanging:
    """A task id without a sign of life."""

    task: Task
    task_id: int
    silent_s: float


@dataclass
class _Watched:
    signs: tuple[object, ...]
    silent_s: float = 0.0
    told: bool = False


class HangWatch:
    """Looks at running tasks from time to time.

    Args:
        engine: knows the processes.
        now: seconds of a clock that never jumps.
    """

    def __init__(self, engine: EngineBase, now: Callable[[], float] = time.monotonic) -> None:
        self._engine = engine
        self._now = now
        self._looked_at = float("-inf")
        self._watched: dict[_Key, _Watched] = {}

    def look(self, running: Iterable[Job]) -> list[Hanging]:
        """Return the task ids of running jobs that hang by now, each once until it moves again."""
        if gs.TASK_HEARTBEAT_TIMEOUT is None:
            return []
        limit_s = max(gs.TASK_HEARTBEAT_TIMEOUT, 3 * gs.PLOGGING_UPDATE_FILE_PERIOD)
        passed_s = self._now() - self._looked_at
        if passed_s < limit_s / _LOOKS:
            return []
        self._looked_at = self._now()
        before, self._watched = self._watched, {}
        hanging = []
        for task, task_id in self._running_ids(running):
            key = task.job._sis_id(), task.name(), task_id
            watched = before.get(key)
            signs = self._signs(task, task_id)
            if watched is None or watched.signs != signs:
                watched = _Watched(signs)
            else:  # a long time between two looks says more of this process than of the task
                watched.silent_s += min(passed_s, 2 * limit_s / _LOOKS)
            self._watched[key] = watched
            if watched.silent_s >= limit_s and not watched.told:
                watched.told = True
                hanging.append(Hanging(task, task_id, watched.silent_s))
        return hanging

    def _running_ids(self, jobs: Iterable[Job]) -> Iterator[tuple[Task, int]]:
        for job in jobs:
            task = next_task(job)
            if task is None:  # it has just finished
                continue
            for task_id in task.task_ids():
                if not task.finished(task_id) and task.state(self._engine, task_id) == gs.STATE_RUNNING:
                    yield task, task_id

    def _signs(self, task: Task, task_id: int) -> tuple[object, ...]:
        files = (task.path(kind, task_id) for kind in (gs.JOB_LOG, gs.PLOGGING_FILE))
        return *(_changed_at(path) for path in files), self._engine.activity(task, task_id)


def _changed_at(path: str) -> int | None:
    try:
        return os.stat(path).st_mtime_ns
    except OSError:  # not there, or not to be seen now
        return None
