"""Failed tasks, as recipes and settings see them, and what they can decide: to run it again, or elsewhere.

``gs.on_job_failure(job)`` and ``Job.on_failure(failure)`` are asked; a decision is a call of
:meth:`Failure.retry`.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

import sisyphus.global_settings as gs
from sisyphus.job_status import tasks_of
from sisyphus.terminal.overview import last_lines

if TYPE_CHECKING:
    from sisyphus.engines.base import EngineBase
    from sisyphus.job import Job
    from sisyphus.task import Task

_DECIDABLE = (gs.STATE_ERROR, gs.STATE_RETRY_ERROR)


@dataclass(frozen=True)
class Failure:
    """One id of a task that is in ``error`` or ``retry_error``."""

    task: Task
    task_id: int
    state: str
    """``error``: it raised; ``retry_error``: it was interrupted too often without getting further."""
    rqmt: dict[str, Any] = field(compare=False)
    """What it was given: cpu, gpu, mem (GB), time (hours), ..."""
    num_retries: int = 0
    """How often it was run again after an error."""

    @property
    def job(self) -> Job:
        """The job that it belongs to."""
        return self.task.job

    @property
    def usage(self) -> dict[str, Any]:
        """Its usage file: ``max`` (rss in GB), ``used_time`` (hours), ``out_of_memory``, ``host``, ..."""
        return self.task.get_last_usage(self.task_id)

    @property
    def host(self) -> str | None:
        """The machine that it ran on; None if it did not get that far."""
        return self.usage.get("host")

    @property
    def nodes(self) -> list[str]:
        """The machines that it ran on, by the names that its engine has for them."""
        host = [] if self.host is None else [self.host]
        return list(self.usage.get("nodes", host))

    def log(self, num_lines: int = 200) -> str:
        """Return the last lines of its log."""
        return "\n".join(last_lines(self.task.path(gs.JOB_LOG, self.task_id), num_lines))

    def retry(
        self,
        *,
        max_retries: int | None = None,
        exclude_node: bool = False,
        rqmt: dict[str, Any] | None = None,
    ) -> bool:
        """Have it run again; after ``error`` from the beginning, after ``retry_error`` where it can resume.

        Args:
            max_retries: no more than so often; default: MAX_SUBMIT_RETRIES.
            exclude_node: not on the machine that it failed on, or on any of several.
            rqmt: requirements to change, e.g. ``{"mem": 2 * failure.rqmt["mem"]}``; ``check_engine_limits``
                of the settings may cap them.

        Returns:
            Whether it will; False if it had its retries.
        """
        limit = gs.MAX_SUBMIT_RETRIES if max_retries is None else max_retries
        changes = dict(rqmt or {})
        if exclude_node and self.nodes:
            changes["exclude_nodes"] = sorted({*self.rqmt.get("exclude_nodes", ()), *self.nodes})
        folder, name = self.job._sis_dir, self.task.name()
        if self.state == gs.STATE_ERROR:
            done = self.task.put_failure_aside(self.task_id, limit)
        else:
            changes = {**{key: self.rqmt[key] for key in self.task.rqmt() if key in self.rqmt}, **changes}
            done = folder.put_submissions_aside(name, limit)
        if not done:
            logging.info("%s %s %d: had its %d retries", self.job, name, self.task_id, limit)
            return False
        if changes:
            self.job._sis_change_rqmt(name, changes)
        logging.warning(
            "%s %s %d runs again%s", self.job, name, self.task_id, f", with {changes}" if changes else ""
        )
        return True


def failures_of(job: Job, engine: EngineBase) -> list[Failure]:
    """Return the failed task ids of a job."""
    found = []
    for task in tasks_of(job):
        history = engine.get_submit_history(task)
        for task_id in task.task_ids():
            state = task.state(engine, task_id)
            if state in _DECIDABLE:
                last = history.get(task_id, [task.rqmt()])[-1]
                retries = job._sis_dir.num_resets(task.name(), task_id)
                found.append(Failure(task, task_id, str(state), dict(last), retries))
        if found:
            break  # later tasks have not run
    return found


class Decisions:
    """Asks settings and recipes about failed jobs.

    Args:
        engine: knows what tasks were given.
    """

    def __init__(self, engine: EngineBase) -> None:
        self._engine = engine
        self._asked: set[Failure] = set()
        self._broken: set[str] = set()

    def ask(self, job: Job) -> bool:
        """Ask about one job in error; the settings at each call, the recipe once for each failure.

        Returns:
            Whether the job is no longer in error.
        """
        self._call("on_job_failure of the settings", lambda: gs.on_job_failure(job))
        if _decides(job):
            for failure in failures_of(job, self._engine):
                if failure not in self._asked:
                    self._asked.add(failure)
                    self._call(f"{type(job).__name__}.on_failure", partial(job.on_failure, failure))
        return job._sis_state(self._engine) not in _DECIDABLE

    def _call(self, name: str, function: Callable[[], None]) -> None:
        """Call it; an error in it is told once, and leaves the failure to a person."""
        try:
            function()
        except Exception as error:  # any code of a recipe or of settings may stand behind it
            if name not in self._broken:
                self._broken.add(name)
                logging.exception("%s failed: %r", name, error)


def _decides(job: Job) -> bool:
    """Whether the recipe overrides ``on_failure``."""
    return type(job).on_failure.__module__ != "sisyphus.job"
