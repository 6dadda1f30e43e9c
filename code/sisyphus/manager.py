"""The loop: which jobs can run, and have an engine run them, until the targets are there or nothing can run.

The loop sleeps until an engine wakes it. It also looks by itself every few seconds, because some changes make
no sound: a ``hold`` file that was removed, an output released by a job that still runs, a report that is due.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Collection
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import sisyphus.global_settings as gs
from sisyphus.errors import RefusedError, SisyphusError
from sisyphus.job_identity import created_jobs
from sisyphus.job_status import tasks_of
from sisyphus.loader import config_manager
from sisyphus.memory_profile import MemoryProfile
from sisyphus.outputs.links import create_aliases
from sisyphus.outputs.targets import OutputPath, OutputReport
from sisyphus.results_cache import finished_results_cache
from sisyphus.terminal import overview
from sisyphus.terminal.display import Display, PlainDisplay
from sisyphus.terminal.prompts import ask

if TYPE_CHECKING:
    from sisyphus.engines.base import EngineBase
    from sisyphus.graph import SISGraph
    from sisyphus.job import Job

__all__ = ["JobCleaner", "Manager", "Summary", "create_aliases"]

LONGEST_SLEEP_S = 1.0
"""Time between two passes in which nothing happened, for a graph that is quickly gone through."""

_SHARE_OF_TIME = 0.05
"""At most this share of the time is spent on passes in which nothing happened."""

_MAY_MOVE_ON = (
    gs.STATE_RUNNABLE,
    gs.STATE_RUNNING,
    gs.STATE_QUEUE,
    gs.STATE_UNKNOWN,
    gs.STATE_INTERRUPTED_RESUMABLE,
)
"""While a job is in one of these states there is something to wait for."""


@dataclass
class Summary:
    """What a run of the manager did."""

    cached: int = 0
    """Jobs that were finished before."""
    finished: list[Job] = field(default_factory=list)
    """Jobs that finished meanwhile."""
    failed: dict[Job, str] = field(default_factory=dict)
    """Jobs that need a person, and their state."""
    missing: list[str] = field(default_factory=list)
    """Inputs that no job makes and that are not there."""
    broken: dict[str, str] = field(default_factory=dict)
    """Reports and callbacks that failed, and why."""
    num_open: int = 0
    """Jobs that are not finished and did not fail: on hold, or behind one that failed."""
    seconds: float = 0.0
    """Wall time of the run."""

    @property
    def exit_code(self) -> int:
        """0 if nothing failed."""
        return 1 if self.failed or self.missing or self.broken else 0


class Manager(threading.Thread):
    """Runs what the targets of a graph need.

    Args:
        sis_graph: the graph; it may grow meanwhile.
        engine: runs the tasks; started already.
        display: shows what happens.
        interactive: ask before each submission.
    """

    def __init__(
        self,
        sis_graph: SISGraph,
        engine: EngineBase,
        *,
        display: Display | None = None,
        interactive: bool = False,
    ) -> None:
        super().__init__(name="manager", daemon=True)
        self.graph = sis_graph
        self.engine = engine
        self.display = PlainDisplay() if display is None else display
        self.interactive = interactive
        self.states: dict[str, set[Any]] = {}
        self.summary = Summary()
        self._known: dict[Job, str] = {}
        self._set_up: set[Job] = set()
        self._refused: dict[Job, str] = {}
        self._never: set[Job] = set()
        self._waiting_configs: list[str] = []
        self._cleared_at: dict[Job, float] = {}
        self._wake = threading.Event()
        self._stopping = False
        engine.connect(self._wake.set)

    # What a person can have done before the loop starts

    def update_states(self) -> dict[str, set[Any]]:
        """Look at all jobs that are not known to be finished."""
        self.engine.reset_cache()
        first = not self.states
        self.states = self.graph.get_jobs_by_status(engine=self.engine, skip_finished=not first)
        for job in self._refused:
            self._move_state(job, gs.STATE_QUEUE_ERROR)
        for job in self._never:
            self._move_state(job, gs.STATE_HOLD)
        if self.states.get(gs.STATE_INPUT_MISSING):
            self.states[gs.STATE_INPUT_MISSING] &= self._needed_from_outside()
        self._note_changes(first)
        return self.states

    def _needed_from_outside(self) -> set[str]:
        """Inputs that no job makes, of what is not finished: sources may be gone once all is computed."""
        paths = {path for target in self.graph.active_targets for path in target.required}
        for state, jobs in self.states.items():
            if state not in (gs.STATE_FINISHED, gs.STATE_INPUT_PATH, gs.STATE_INPUT_MISSING):
                paths.update(path for job in jobs for path in job._sis_inputs)
        return {path.get_path() for path in paths if path.creator is None}

    def clear(self, state: str) -> None:
        """Move the directories of all jobs in this state aside, so that they run again from the beginning."""
        for job in sorted(self.states.get(state, ())):
            self._clear_job(job)
        self.update_states()

    def set_up_runnable(self) -> None:
        """Make the directories of runnable jobs, and start nothing."""
        self._for_each(self.states.get(gs.STATE_RUNNABLE, ()), self._set_up_job)

    def update_links(self) -> None:
        """Bring aliases, outputs and reports up to date."""
        create_aliases(self.graph.jobs_sorted())
        for target in self.graph.targets:
            if isinstance(target, OutputPath | OutputReport):
                target.update_requirements()
                if target.is_done():
                    target.run_when_done()

    # The loop

    def stop(self) -> None:
        """End the loop after the current pass. Running tasks go on."""
        self._stopping = True
        self._wake.set()

    def run(self) -> None:
        """Work until all targets are done, nothing can run any more, or :meth:`stop` is called."""
        began = time.monotonic()
        cleaner = JobCleaner(self.graph) if gs.JOB_AUTO_CLEANUP else None
        profile = MemoryProfile(gs.MEMORY_PROFILE_LOG) if gs.MEMORY_PROFILE_LOG else None
        try:
            if cleaner is not None:
                cleaner.start()
            create_aliases(self.graph.jobs_sorted())
            while not self._stopping:
                self._wake.clear()
                began_pass = time.monotonic()
                if self._pass() and self._last_look():
                    break
                if profile is not None:
                    profile.note()
                self._sleep(time.monotonic() - began_pass)
        finally:
            if cleaner is not None:
                cleaner.stop()
            self.display.close()
        finished_results_cache.write_to_file()
        config_manager.cancel_all_reader()
        self.update_links()
        self.summarize(time.monotonic() - began)

    def _pass(self) -> bool:
        """Look at everything once and act on it; True if there is nothing left to wait for."""
        finished_results_cache.write_to_file()
        self._continue_configs()
        self.update_states()
        if gs.CLEAR_ERROR:
            self._clear_errors_again()
        self._for_each(self.states.get(gs.STATE_HOLD, ()), self._set_up_job)
        self._submit_all()
        for state in (gs.STATE_ERROR, gs.STATE_RETRY_ERROR):
            for job in self.states.get(state, ()):
                gs.on_job_failure(job)
        self.graph.update_active_targets()
        return self._is_over()

    def _continue_configs(self) -> None:
        config_manager.continue_readers()
        waiting = config_manager.waiting_configs()
        if waiting != self._waiting_configs:
            self._waiting_configs = waiting
            config_manager.print_waiting()

    def _sleep(self, pass_seconds: float) -> None:
        # a burst of events costs one pass, not one for each
        time.sleep(min(pass_seconds, 1.0))
        longest = max(LONGEST_SLEEP_S, pass_seconds / _SHARE_OF_TIME)
        period = self.engine.poll_interval_s
        self._wake.wait(longest if period is None else min(longest, period))

    def _is_over(self) -> bool:
        waiting = config_manager.reader_running()
        if not waiting and not self.graph.active_targets:
            logging.info("All output calculated")
            return True
        if any(self.states.get(state) for state in _MAY_MOVE_ON) or self._still_runs_beside_an_error():
            return False
        if gs.CLEAR_ERROR and self.states.get(gs.STATE_ERROR):
            return False
        if waiting:
            logging.warning("Configs still wait for jobs, but nothing can run any more")
        return True

    def _still_runs_beside_an_error(self) -> bool:
        """Whether a parallel sibling of a failed task id runs on."""
        return any(
            task.state(self.engine, task_id) in (gs.STATE_RUNNING, gs.STATE_QUEUE)
            for job in self.states.get(gs.STATE_ERROR, ())
            for task in tasks_of(job)
            for task_id in task.task_ids()
            if task.started(task_id)
        )

    def _last_look(self) -> bool:
        """Where files are seen late, look again before leaving; True if there is still nothing to do."""
        if not self.graph.active_targets or self.engine.poll_interval_s is None:
            return True
        logging.info("There is nothing I can do, good bye! One last look in %s s.", gs.WAIT_PERIOD_CACHE)
        time.sleep(gs.WAIT_PERIOD_CACHE)
        return self._pass()

    def summarize(self, seconds: float = 0.0) -> Summary:
        """Complete the summary with what the last look saw.

        Args:
            seconds: wall time of the run.
        """
        self.summary.failed = {job: state for job, state in self._known.items() if state in overview.FAILED}
        self.summary.num_open = sum(
            state not in (*overview.FAILED, gs.STATE_FINISHED) for state in self._known.values()
        )
        self.summary.broken = {target.name: target.failure for target in self.graph.targets if target.failure}
        self.summary.missing = sorted(self.states.get(gs.STATE_INPUT_MISSING, ()))
        self.summary.seconds = seconds
        return self.summary

    # Jobs

    def _note_changes(self, first: bool) -> None:
        """Tell the display what is new since the last look; at the first look nothing is."""
        now = {job: state for state, jobs in self.states.items() for job in jobs if not isinstance(job, str)}
        finished = [
            job for job, before in self._known.items() if before != gs.STATE_FINISHED and job._sis_is_finished
        ]
        self.summary.finished += finished
        self.display.show(self.states, len(self.summary.finished) + self.summary.cached)
        for job in finished:
            now[job] = gs.STATE_FINISHED
            self.display.finished(job, overview.used_seconds(job))
        for job, state in now.items():
            if not first and state != self._known.get(job):
                self._tell(job, state)
            self.summary.cached += state == gs.STATE_FINISHED and job not in self._known
        self._known.update(now)

    def _tell(self, job: Job, state: str) -> None:
        if state == gs.STATE_RUNNING:
            self.display.started(job)
        elif state in overview.FAILED:
            self.display.failed(job, state, overview.failure(job, self.engine) if gs.PRINT_ERROR else ())

    def _move_state(self, job: Job, state: str) -> None:
        for jobs in self.states.values():
            jobs.discard(job)
        self.states.setdefault(state, set()).add(job)

    def _submit_all(self) -> None:
        ready = {
            job
            for state in (gs.STATE_INTERRUPTED_RESUMABLE, gs.STATE_RUNNABLE)
            for job in self.states.get(state, ())
            if job not in self._refused
        }
        jobs = in_order_of_creation(ready)
        if self.interactive:
            jobs = [job for job in jobs if self._allowed(job)]
        self._for_each(jobs, self._set_up_job)
        jobs = [job for job in jobs if job not in self._refused]
        # a scheduler takes its time to answer; on this machine the order counts for more
        self._for_each(jobs, self._submit_job, threads=self.engine.waits_for_file_system)

    def _allowed(self, job: Job) -> bool:
        answer = ask(f"Submit {job}? (Yes/skip/never) ", "never")
        if answer in ("n", "never"):
            self._never.add(job)
            self._wake.set()
        return answer in ("", "y", "yes")

    def _submit_job(self, job: Job) -> None:
        task = job._sis_next_task()
        if task is not None:
            self.engine.submit(task)

    def _set_up_job(self, job: Job) -> None:
        if job not in self._set_up:
            job._sis_setup_directory(force=True)
            self._set_up.add(job)

    def _for_each(self, jobs: Collection[Job], act: Callable[[Job], None], *, threads: bool = True) -> None:
        """Act on all jobs; those that cannot be set up or submitted are told, and not tried again."""
        if not threads or len(jobs) <= 1 or gs.MANAGER_SUBMIT_WORKER <= 1:
            for job in jobs:
                self._try(job, act)
            return
        with ThreadPoolExecutor(gs.MANAGER_SUBMIT_WORKER) as pool:
            for done in [pool.submit(self._try, job, act) for job in jobs]:
                done.result()

    def _try(self, job: Job, act: Callable[[Job], None]) -> None:
        try:
            act(job)
        except (RefusedError, SisyphusError, OSError) as error:
            self._refuse(job, str(error))

    def _refuse(self, job: Job, reason: str) -> None:
        logging.error("%s: %s", job, reason)
        self._refused[job] = reason
        self._wake.set()

    def _clear_job(self, job: Job) -> None:
        for task in tasks_of(job):
            if any(task.state(self.engine, task_id) == gs.STATE_RUNNING for task_id in task.task_ids()):
                self.engine.cancel(task)
        if job._sis_setup():  # a job whose code is broken may have none
            job._sis_move()
        self._set_up.discard(job)
        logging.warning("Cleared %s: its directory was moved aside, it runs again", job)

    def _clear_errors_again(self) -> None:
        """As CLEAR_ERROR asks, but not more often than upstream's loop would: a job may fail in no time."""
        now = time.monotonic()
        cleared = False
        for job in sorted(self.states.get(gs.STATE_ERROR, ())):
            if now - self._cleared_at.get(job, float("-inf")) >= gs.WAIT_PERIOD_BETWEEN_CHECKS:
                self._cleared_at[job] = now
                self._clear_job(job)
                cleared = True
        if cleared:
            self.update_states()


def in_order_of_creation(jobs: Collection[Job]) -> list[Job]:
    """Jobs in the order in which the configs made them: what a person reads first, runs first."""
    if len(jobs) <= 1:
        return list(jobs)
    return [job for job in list(created_jobs.values()) if job in jobs]


class JobCleaner(threading.Thread):
    """Packs finished jobs from time to time while the manager runs.

    Args:
        sis_graph: its jobs are cleaned.
    """

    def __init__(self, sis_graph: SISGraph) -> None:
        super().__init__(name="job cleaner", daemon=True)
        self._graph = sis_graph
        self._stopped = threading.Event()

    def run(self) -> None:
        """Clean every JOB_CLEANER_INTERVAL seconds."""
        while not self._stopped.wait(gs.JOB_CLEANER_INTERVAL):
            from sisyphus.cleaner import cleanup_jobs  # most runs of the manager end before the first round

            cleanup_jobs(self._graph, min_age_s=gs.WAIT_PERIOD_JOB_CLEANUP, stop=self._stopped)

    def stop(self) -> None:
        """End after the current round."""
        self._stopped.set()
