"""What a job is waiting for, whether it can run, whether it is finished.

Only "finished" is remembered: everything else can change at any time, and is looked up when asked for.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING

from sisyphus import global_settings as gs
from sisyphus.atomic_files import link_atomically
from sisyphus.block import blocks_set_to
from sisyphus.job_identity import graph_lock
from sisyphus.results_cache import finished_results_cache
from sisyphus.states import State

if TYPE_CHECKING:
    from sisyphus.engines.base import EngineBase
    from sisyphus.job import Job
    from sisyphus.task import Task


class _Nesting(threading.local):
    """Whether this thread is just finding out whether some job is finished."""

    active = False


_nesting = _Nesting()


@contextmanager
def _nested() -> Iterator[None]:
    _nesting.active = True
    try:
        yield
    finally:
        _nesting.active = False


def only_looking() -> AbstractContextManager[None]:
    """While this is held, this thread declares no job finished: what it asks changes nothing on disk."""
    return _nested()


def is_finished(job: Job) -> bool:
    """Whether the job is finished; declares it so if all of its tasks are.

    While one job is looked at, its ancestors are judged by their markers alone: otherwise the question would
    travel through the whole ancestry. Ancestors whose tasks are done but whose marker is missing are declared
    finished when their turn comes in the next pass.
    """
    if job._sis_is_finished:
        return True
    folder = job._sis_dir
    if finished_results_cache.has("job", folder.path) or folder.is_finished():
        job._sis_is_finished = True
        finished_results_cache.remember("job", folder.path)
        return True
    if _nesting.active or not folder.exists():
        return False
    with _nested():
        if not is_runnable(job):
            return False
        tasks = tasks_of(job)
        if not tasks or not all(task.finished() for task in tasks):
            return False
    _declare_finished(job)
    return True


def _declare_finished(job: Job) -> None:
    """Mark the job; the first process to do so also links it for the team and tells the settings."""
    first = job._sis_dir.mark_finished()
    job._sis_is_finished = True
    finished_results_cache.remember("job", job._sis_dir.path)
    if not first:
        return
    if gs.TEAM_SHARE_DIR:
        _link_for_team(job, gs.TEAM_SHARE_DIR)
    try:
        gs.on_job_finished(job)
    except Exception as error:  # any code of settings; the job is finished all the same
        logging.error(f"on_job_finished of the settings failed for {job}", exc_info=error)


def _link_for_team(job: Job, directory: str) -> None:
    link = os.path.join(directory, job._sis_id())
    try:
        os.makedirs(os.path.dirname(link), exist_ok=True)
        link_atomically(os.path.realpath(job._sis_path()), link)
    except OSError as error:
        logging.warning(f"Cannot link {job} as {link}: {error}")


def inputs_available(job: Job) -> bool:
    """Whether all inputs are there; what was there once is not looked at again."""
    known = job._sis_available_inputs
    if len(known) == len(job._sis_inputs):
        return True
    for path in tuple(job._sis_inputs):
        if id(path) not in known:
            if not path.available(job):
                return False
            known.add(id(path))
    return True


def tasks_of(job: Job) -> list[Task]:
    """The tasks; none if ``tasks`` raises, because one broken recipe must not stop all other jobs."""
    if job._sis_broken is None:
        try:
            return job._sis_tasks()
        except Exception as error:  # noqa: BLE001 - any code of a recipe may stand behind it
            _note_broken(job, "tasks", error)
    return []


def _note_broken(job: Job, method: str, error: Exception) -> None:
    """Log it once; from now on the job is in error, until the manager is started again."""
    job._sis_broken = f"{type(job).__name__}.{method}() failed: {type(error).__name__}: {error}"
    logging.error(f"{job}: {job._sis_broken}", exc_info=error)


def is_runnable(job: Job) -> bool:
    """Whether all inputs are there, also those that ``update`` adds."""
    if job._sis_broken is not None or not inputs_available(job):
        return False
    if not job._sis_has_updates():
        return True
    with graph_lock:
        while job._sis_num_inputs_updated != len(job._sis_inputs):
            before = len(job._sis_inputs)
            try:
                with blocks_set_to(job._sis_blocks):
                    job.update()
                job._sis_collect_inputs()
            except Exception as error:  # noqa: BLE001 - any code of a recipe may stand behind it
                _note_broken(job, "update", error)
                return False
            if len(job._sis_inputs) == before:
                job._sis_num_inputs_updated = before
            if not inputs_available(job):
                return False
    return True


def next_task(job: Job) -> Task | None:
    """Return the first task that is not finished; None if the inputs are not there or all are finished."""
    if not is_runnable(job):
        return None
    return next((task for task in tasks_of(job) if not task.finished()), None)


def job_state(job: Job, engine: EngineBase | None) -> State:
    """Return the state of a job; hold and finished are looked at before the inputs.

    It is ``unknown`` while its folder cannot be read: one bad disk must not stop all other jobs.
    """
    try:
        return _job_state(job, engine)
    except OSError as error:
        logging.warning(f"Cannot look at {job}: {error}")
        return State.UNKNOWN


def _job_state(job: Job, engine: EngineBase | None) -> State:
    if is_finished(job):
        return State.FINISHED
    folder = job._sis_dir
    if job._sis_hold_asked or folder.is_on_hold():
        return State.HOLD
    if not is_runnable(job):
        return State.WAITING if job._sis_broken is None else State.ERROR
    if not folder.exists():
        return State.RUNNABLE
    task = next_task(job)
    if task is not None:
        return task.state(engine)
    if job._sis_broken is not None:
        return State.ERROR
    # the last marker appeared between the two looks
    return State.FINISHED if is_finished(job) else State.RUNNABLE
