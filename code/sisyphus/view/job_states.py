"""States of jobs for processes that only look, beside a manager that works.

The manager's own questions declare jobs finished and take the tries of failed tasks; those here do neither.
"""

from __future__ import annotations

from collections.abc import Iterable

from sisyphus import global_settings as gs
from sisyphus import job_status
from sisyphus.engines.base import EngineBase
from sisyphus.job import Job
from sisyphus.job_dir import HOLD, task_entry
from sisyphus.states import State, combined
from sisyphus.task import Task


def states_of(jobs: Iterable[Job], engine: EngineBase | None) -> dict[Job, State]:
    """Return the state of each job.

    Args:
        jobs: dependencies first, as ``graph.jobs_sorted`` gives them.
        engine: asked which tasks run; None: those that wrote to their log lately.
    """
    with job_status.only_looking():
        return {job: _state(job, engine) for job in jobs}


def _state(job: Job, engine: EngineBase | None) -> State:
    if job._sis_is_finished:
        return State.FINISHED
    folder = job._sis_dir
    names = folder.names()
    if gs.JOB_FINISHED_MARKER in names or gs.JOB_FINISHED_ARCHIVE in names:
        job._sis_is_finished = True  # known in this process from now on; those that need it ask
        return State.FINISHED
    if not job_status.is_runnable(job):
        return State.ERROR if _is_broken(job) else State.WAITING
    if job._sis_hold_asked or HOLD in names:
        return State.HOLD
    if not names:
        return State.RUNNABLE
    for task in job_status.tasks_of(job):
        state = task_state(task, names, engine)
        if state is not State.FINISHED:
            return state
    if _is_broken(job):
        return State.ERROR
    job._sis_is_finished = True  # its manager will mark it
    return State.FINISHED


def _is_broken(job: Job) -> bool:
    """Whether the code of its recipe failed just now or before."""
    return job._sis_broken is not None


def task_state(task: Task, names: frozenset[str], engine: EngineBase | None) -> State:
    """Return the state of a task over all its ids.

    Args:
        task: of a job that has a folder.
        names: of everything in that folder.
        engine: as for :func:`states_of`.
    """
    return combined([_id_state(task, task_id, names, engine) for task_id in task.task_ids()])


def _id_state(task: Task, task_id: int, names: frozenset[str], engine: EngineBase | None) -> State:
    if task_entry(gs.JOB_FINISHED_MARKER, task.name(), task_id) in names:
        return State.FINISHED
    if task_entry(State.ERROR.value, task.name(), task_id) in names:
        return State.ERROR
    return task.state(None if engine is None else _Looking(engine), task_id)


class _Looking(EngineBase):
    """An engine that is asked, and never told anything."""

    def __init__(self, engine: EngineBase) -> None:
        super().__init__()
        self._engine = engine

    @property
    def waits_for_file_system(self) -> bool:  # type: ignore[override]
        """As the engine."""
        return self._engine.waits_for_file_system

    def has_ended(self, task: Task, task_id: int) -> bool:
        """As the engine."""
        return self._engine.has_ended(task, task_id)

    def task_state(self, task: Task, task_id: int) -> str:
        """What the engine knows, without counting the task as its own."""
        return self._engine.look(task, task_id)
