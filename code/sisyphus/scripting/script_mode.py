"""Running jobs without a manager: from recipe files used as programs, and from the console."""

from __future__ import annotations

import logging
import os
import subprocess
from typing import TYPE_CHECKING, Any

import sisyphus.global_settings as gs
from sisyphus.engines import cached_engine
from sisyphus.errors import BlockedWorkflow
from sisyphus.job_path import AbstractPath
from sisyphus.job_status import tasks_of
from sisyphus.paths.extract import extract_paths
from sisyphus.terminal import logs, overview

if TYPE_CHECKING:
    from sisyphus.engines.base import EngineBase
    from sisyphus.job import Job
    from sisyphus.manager import Manager
    from sisyphus.managing.failures import Failure
    from sisyphus.task import Task

_NO_WAITS = {
    "WAIT_PERIOD_JOB_FS_SYNC": 0,
    "WAIT_PERIOD_JOB_CLEANUP": 0,
    "WAIT_PERIOD_MTIME_OF_INPUTS": 0,
    "ENGINE_NOT_SETUP_WARNING": False,
}


def setup_script_mode() -> None:
    """Prepare a recipe file that is used as a program: logging, and no waits, here and in workers."""
    logs.set_up()
    for name, value in _NO_WAITS.items():
        setattr(gs, name, value)
        os.environ[f"{gs.ENVIRONMENT_SETTINGS_PREFIX}{name}"] = repr(value)


def run(obj: Any, quiet: bool = False) -> None:
    """Compute everything that the paths in ``obj`` need: one task after the other, without an engine.

    Args:
        obj: paths, or anything that holds some.
        quiet: workers write to their log files only.

    Raises:
        BlockedWorkflow: something failed or is missing, and nothing more can run.
    """
    wanted = extract_paths(obj)
    failed: set[Job] = set()
    while missing := [path for path in wanted if not path.available()]:
        task = _next_task(missing, failed)
        if task is None:
            raise BlockedWorkflow(_why_blocked(missing, failed))
        for task_id in task.task_ids():
            if not task.finished(task_id) and run_job(task.job, task.name(), task_id, quiet=quiet) != 0:
                failed.add(task.job)


def run_job(
    job: Job,
    task_name: str | None = None,
    task_id: int = 1,
    force_resume: bool = False,
    *,
    quiet: bool = False,
) -> int:
    """Run one task of a job as a process in the foreground.

    Args:
        job: set up if it is not.
        task_name: default: the first unfinished one.
        task_id: which element of the task.
        force_resume: call the method for restarts.
        quiet: write to the log file only.

    Returns:
        The exit code of the worker.

    Raises:
        BlockedWorkflow: no task is given, and none is left or can run.
    """
    job._sis_setup_directory()
    task = job._sis_next_task() if task_name is None else _task(job, task_name)
    if task is None:
        raise BlockedWorkflow(f"{job} has no task that can run: it is finished, or inputs are missing.")
    call = [*task.get_worker_call(task_id)]
    call += ["--force_resume"] if force_resume else []
    call += ["--redirect_output"] if quiet else []
    logging.info("Run %s %s %d", job, task.name(), task_id)
    return subprocess.run(call, check=False).returncode


def failures(job: Job) -> list[Failure]:
    """Return the failed task ids of a job, for ``on_job_failure`` of the settings: each can be run again."""
    from sisyphus.managing.failures import failures_of

    return failures_of(job, cached_engine())


def submit_next_task(job: Job, setup_directory: bool = True) -> None:
    """Submit the first unfinished task of a job through the engine.

    Args:
        job: the job; nothing happens, with a warning, if none of its tasks can run.
        setup_directory: make its directory ready before.
    """
    task = job._sis_next_task()
    if task is None:
        logging.warning("%s has no task that can run", job)
        return
    if setup_directory:
        job._sis_setup_directory()
    cached_engine().submit(task)


def setup_job_directory(job: Job | AbstractPath) -> None:
    """Set the directory of a job, or of the job that makes a path, up; if inputs are missing, say which."""
    job = job.creator if isinstance(job, AbstractPath) else job
    if job._sis_runnable():
        job._sis_setup_directory()
        return
    for path in sorted(job._sis_inputs):
        if not path.available():
            logging.warning("%s cannot be set up, input is missing: %s", job, path.get_path())


def start_manager(engine: EngineBase | None = None, start_computations: bool = False) -> Manager:
    """Start a manager in a thread of this process, e.g. of the console.

    Args:
        engine: default: that of the settings.
        start_computations: False only computes the states.

    Returns:
        The manager; ``stop()`` ends it.

    Raises:
        AnotherManagerError: computations are to start, but another manager works in the work folder.
    """
    from sisyphus.graph import graph
    from sisyphus.manager import Manager

    engine = cached_engine() if engine is None else engine
    engine.start_engine()
    manager = Manager(graph, engine)
    manager.update_states()
    if start_computations:
        manager.own()
        manager.start()
    return manager


def _task(job: Job, name: str) -> Task:
    tasks = {task.name(): task for task in job._sis_tasks()}
    if name not in tasks:
        raise BlockedWorkflow(f"{job} has no task {name!r}. Its tasks: {', '.join(tasks)}.")
    return tasks[name]


def _jobs_below(paths: list[AbstractPath]) -> list[Job]:
    """All unfinished jobs that the paths need."""
    found: dict[Job, None] = {}
    waiting = [path.creator for path in paths]
    while waiting:
        job = waiting.pop()
        if job is None or job in found or job._sis_finished():
            continue
        found[job] = None
        waiting.extend(path.creator for path in job._sis_inputs)
    return sorted(found)


def _next_task(missing: list[AbstractPath], failed: set[Job]) -> Task | None:
    """A task that can run now and did not fail."""
    for job in _jobs_below(missing):
        if job in failed:
            continue
        task = job._sis_next_task()
        if task is not None and not task.error():
            job._sis_setup_directory()
            return task
    return None


def _why_blocked(missing: list[AbstractPath], failed: set[Job]) -> str:
    lines = [f"nothing more can run, but {len(missing)} of the paths asked for are missing."]
    for job in _jobs_below(missing):
        if (
            job in failed
            or job._sis_broken
            or (job._sis_setup() and any(task.error() for task in tasks_of(job)))
        ):
            lines.append(f"{job} failed:")
            lines += overview.failure(job, cached_engine())
    needed = {path for job in _jobs_below(missing) for path in job._sis_inputs}.union(missing)
    outside = sorted(path.get_path() for path in needed if path.creator is None and not path.available())
    lines += [f"missing: {path}" for path in outside]
    return "\n".join(lines)
