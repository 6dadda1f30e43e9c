"""The loop: which jobs can run, and have an engine run them, until the targets are there or nothing can run.

The loop sleeps until an engine wakes it, and then looks at the jobs that the engine names and at what waited
for them. It also looks at everything by itself every few seconds, because some changes make no sound: a
``hold`` file that was removed, an output released by a job that still runs, a report that is due.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Collection, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import sisyphus.global_settings as gs
from sisyphus.errors import RefusedError, SisyphusError
from sisyphus.job_identity import created_jobs
from sisyphus.job_status import tasks_of
from sisyphus.live_states import LiveStates
from sisyphus.loader import config_manager
from sisyphus.managing.failures import Decisions
from sisyphus.managing.hanging import HangWatch
from sisyphus.managing.ownership import Ownership
from sisyphus.memory_profile import MemoryProfile
from sisyphus.outputs.links import create_aliases
from sisyphus.outputs.targets import OutputPath, OutputReport
from sisyphus.results_cache import finished_results_cache
from sisyphus.running.leftovers import end_leftovers
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
"""At most this share of the time is spent on looking at everything."""

_LONGEST_SUBMITTING_S = 0.5
"""After so long, see what happened meanwhile, then go on setting up and submitting."""

_AT_ONCE = 50
"""Jobs that are set up by several threads before they are submitted."""

_LOOK_AT_OWNER_EVERY_S = 0.5
"""Jobs of no work end more often than this, and the file system must not suffer from it."""

_DECIDABLE = (gs.STATE_ERROR, gs.STATE_RETRY_ERROR)
"""States that settings and recipes can do something about."""

_MAY_MOVE_ON = (
    gs.STATE_RUNNABLE,
    gs.STATE_RUNNING,
    gs.STATE_QUEUE,
    gs.STATE_UNKNOWN,
    gs.STATE_INTERRUPTED_RESUMABLE,
)
"""While a job is in one of these states there is something to wait for."""


_NOT_OPEN = (*overview.FAILED, gs.STATE_FINISHED, gs.STATE_INPUT_PATH)


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
        self.live = LiveStates(sis_graph, engine)
        self.summary = Summary()
        self._set_up: set[Job] = set()
        self._job_of: dict[str, Job] = {}
        """Jobs by the names that engines know their tasks by."""
        self._look_again: set[Job] = set()
        self._order = CreationOrder()
        self._next_look_at_all = 0.0
        self._looking_s = 0.0
        """How long the last look at everything took."""
        self._waiting_configs: list[str] = []
        self._cleared_at: dict[Job, float] = {}
        self._ownership = Ownership(gs.WORK_DIR)
        self._decisions = Decisions(engine)
        self._hang_watch = HangWatch(engine)
        self._wake = threading.Event()
        self._stopping = False
        self._wishes: deque[Callable[[], object]] = deque()
        self.paused = False
        """While it is set nothing new is submitted; change it by :meth:`do_soon`."""
        engine.connect(self._wake.set)

    @property
    def states(self) -> dict[str, set[Any]]:
        """Jobs by state, as last seen; absolute paths under ``input_path`` and ``input_missing``."""
        return self.live.by_state

    # What a person can have done before the loop starts

    def update_states(self) -> dict[str, set[Any]]:
        """Look at all jobs that are not known to be finished."""
        began = time.monotonic()
        self.engine.reset_cache()
        first = not self.states
        changes = self.live.look_at_all()
        if self.states.get(gs.STATE_INPUT_MISSING):
            self.states[gs.STATE_INPUT_MISSING] &= self._needed_from_outside()
        self._note_changes(changes, first)
        now = time.monotonic()
        self._looking_s = now - began
        period = max(LONGEST_SLEEP_S, self._looking_s / _SHARE_OF_TIME)
        self._next_look_at_all = now + min(period, self.engine.poll_interval_s or period)
        return self.states

    def _update_changed(self, jobs: Collection[Job]) -> None:
        """Look at some jobs and at what waited for them, and do what became possible by it."""
        if not jobs:
            return
        self._look_again = set()
        changes, targets = self.live.look_at(jobs)
        self._note_changes(changes, first=False)
        self.graph.update_active_targets(among=targets)
        for job in changes:
            if self.live.state_of(job) in _DECIDABLE:
                self._decide(job)

    def _needed_from_outside(self) -> set[str]:
        """Inputs that no job makes, of what is not finished: sources may be gone once all is computed."""
        paths = {path for target in self.graph.active_targets for path in target.required}
        for state, jobs in self.states.items():
            if state not in (gs.STATE_FINISHED, gs.STATE_INPUT_PATH, gs.STATE_INPUT_MISSING):
                paths.update(path for job in jobs for path in job._sis_inputs)
        return {path.get_path() for path in paths if path.creator is None}

    def own(self) -> None:
        """Make sure that no other manager works in the work folder; whatever changes something there does so.

        Raises:
            AnotherManagerError: one does.
        """
        self._ownership.acquire()

    def release(self) -> None:
        """Let another manager work in the work folder."""
        self._ownership.release()

    def clear(self, state: str) -> None:
        """Move the directories of all jobs in this state aside, so that they run again from the beginning."""
        self.own()
        for job in sorted(self.states.get(state, ())):
            self._clear_job(job)
        self.update_states()

    def set_up_runnable(self) -> None:
        """Make the directories of runnable jobs, and start nothing."""
        self.own()
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

    def do_soon(self, wish: Callable[[], object]) -> None:
        """Have the loop call something between two passes, then look at everything; from any thread."""
        self._wishes.append(wish)
        self._wake.set()

    def run(self) -> None:
        """Work until all targets are done, nothing can run any more, or :meth:`stop` is called.

        Raises:
            AnotherManagerError: another manager works in the work folder.
        """
        self.own()
        began = time.monotonic()
        cleaner = JobCleaner(self.graph) if gs.JOB_AUTO_CLEANUP else None
        profile = MemoryProfile(gs.MEMORY_PROFILE_LOG) if gs.MEMORY_PROFILE_LOG else None
        try:
            if cleaner is not None:
                cleaner.start()
            create_aliases(self.graph.jobs_sorted())
            while not self._stopping and not self._is_replaced():
                self._wake.clear()
                if self._pass() and self._look_at_all() and self._last_look():
                    self._say_why_it_is_over()
                    break
                if profile is not None:
                    profile.note()
                self._wake.wait(max(0.0, self._next_look_at_all - time.monotonic()))
        finally:
            if cleaner is not None:
                cleaner.stop()
            self.display.close()
        finished_results_cache.write_to_file()
        config_manager.cancel_all_reader()
        self.update_links()
        self.release()
        self.summarize(time.monotonic() - began)

    def _pass(self) -> bool:
        """Act on what happened since the last pass; True if there seems to be nothing left to wait for."""
        finished_results_cache.write_to_file()
        self._continue_configs()
        if self._wishes:
            while self._wishes:
                self._wishes.popleft()()
            return self._look_at_all()
        names = self.engine.take_changes()
        if (
            not names <= self._job_of.keys()
        ):  # of an earlier manager's tasks, or of an engine that does not say
            time.sleep(min(self._looking_s, 1.0))  # a burst of events costs one look, not one for each
            return self._look_at_all()
        if self.live.has_new_targets or time.monotonic() >= self._next_look_at_all:
            return self._look_at_all()
        self._update_changed({self._job_of[name] for name in names if name is not None} | self._look_again)
        self._submit_all()
        return self._is_over()

    def _look_at_all(self) -> bool:
        """Look at everything once and act on it; True if there is nothing left to wait for."""
        if not self.graph.has_active_targets and not config_manager.reader_running():
            return self._is_over()
        self._look_again = set()
        self.update_states()
        if gs.CLEAR_ERROR:
            self._clear_errors_again()
        self._for_each(self.states.get(gs.STATE_HOLD, ()), self._set_up_job)
        self._submit_all()
        self._tell_hanging(self.states.get(gs.STATE_RUNNING, ()))
        failed = [job for state in _DECIDABLE for job in self.states.get(state, ())]
        run_again = [job for job in failed if self._decide(job)]
        self.graph.update_active_targets()
        return self._is_over() and not run_again

    def _is_replaced(self) -> bool:
        """Whether another manager took this one for dead, e.g. because its machine slept."""
        if self._ownership.is_lost(look_every_s=_LOOK_AT_OWNER_EVERY_S):
            logging.error(
                "Another manager has taken over %s: this one stops, running tasks go on", gs.WORK_DIR
            )
            return True
        return False

    def _decide(self, job: Job) -> bool:
        """Ask settings and recipe what becomes of a failed job; True if it runs again."""
        again = self._decisions.ask(job)
        if again:
            self._next_look_at_all = 0.0
            self._wake.set()
        return again

    def _tell_hanging(self, running: Collection[Job]) -> None:
        """Tell of running tasks that give no sign of life, and end those that can resume."""
        for found in self._hang_watch.look(running):
            name = f"{overview.short_name(found.task.job)} {found.task.name()} {found.task_id}"
            text = f"{name} hangs: no sign of life for {overview.duration(found.silent_s)}"
            if not found.task.resumeable():
                what = "It cannot resume, so it is left alone: end its process, or wait."
            elif self.engine.end_hanging(found.task, found.task_id):
                what = "It was killed, and goes on where it can resume."
            else:
                what = "Its engine cannot end it: do so by hand, then it goes on where it can resume."
            logging.error("%s. %s", text, "\n".join([what, *overview.failure(found.task.job, self.engine)]))

    def _continue_configs(self) -> None:
        config_manager.continue_readers()
        waiting = config_manager.waiting_configs()
        if waiting != self._waiting_configs:
            self._waiting_configs = waiting
            config_manager.print_waiting()

    def _is_over(self) -> bool:
        if not self.graph.has_active_targets and not config_manager.reader_running():
            return True
        if any(self.states.get(state) for state in _MAY_MOVE_ON) or self._still_runs_beside_an_error():
            return False
        return not (gs.CLEAR_ERROR and self.states.get(gs.STATE_ERROR))

    def _say_why_it_is_over(self) -> None:
        if config_manager.reader_running():
            logging.warning("Configs still wait for jobs, but nothing can run any more")
        elif not self.graph.has_active_targets:
            logging.info("All output calculated")

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
        if not self.graph.has_active_targets or self.engine.poll_interval_s is None:
            return True
        logging.info("There is nothing I can do, good bye! One last look in %s s.", gs.WAIT_PERIOD_CACHE)
        deadline = time.monotonic() + gs.WAIT_PERIOD_CACHE
        while (left := deadline - time.monotonic()) > 0:
            self._wake.clear()
            if self._stopping or self._wishes:
                break
            self._wake.wait(left)
        return self._look_at_all()

    def summarize(self, seconds: float = 0.0) -> Summary:
        """Complete the summary with what the last look saw.

        Args:
            seconds: wall time of the run.
        """
        self.summary.failed = {
            job: state
            for state in overview.FAILED
            for job in self.states.get(state, ())
            if not isinstance(job, str)
        }
        self.summary.num_open = sum(
            len(jobs) for state, jobs in self.states.items() if state not in _NOT_OPEN
        )
        self.summary.broken = {target.name: target.failure for target in self.graph.targets if target.failure}
        self.summary.missing = sorted(self.states.get(gs.STATE_INPUT_MISSING, ()))
        self.summary.seconds = seconds
        return self.summary

    # Jobs

    def _note_changes(self, changes: Mapping[Job, str | None], first: bool) -> None:
        """Tell the display what is new since the last look; at the first look nothing is."""
        now = {job: self.live.state_of(job) for job in changes}
        ended = [job for job, state in now.items() if state == gs.STATE_FINISHED]
        finished = [job for job in ended if changes[job] is not None]
        self.summary.finished += finished
        self.summary.cached += len(ended) - len(finished)
        self.display.show(self.states, len(self.summary.finished) + self.summary.cached)
        for job in finished:
            self.display.finished(job, overview.used_seconds(job))
        if not first:
            for job, state in now.items():
                self._tell(job, state)

    def _tell(self, job: Job, state: str | None) -> None:
        if state == gs.STATE_RUNNING:
            self.display.started(job)
        elif state in overview.FAILED:
            self.display.failed(job, state, overview.failure(job, self.engine) if gs.PRINT_ERROR else ())

    def _submit_all(self) -> None:
        """Set up and submit what can run, as much as a short time allows; the rest in the next pass."""
        if self.paused:
            return
        ready = {
            job
            for state in (gs.STATE_INTERRUPTED_RESUMABLE, gs.STATE_RUNNABLE)
            for job in self.states.get(state, ())
            if job not in self.live.imposed
        }
        jobs = self._order.sorted(ready)
        if self.interactive:
            jobs = [job for job in jobs if self._allowed(job)]
        deadline = time.monotonic() + _LONGEST_SUBMITTING_S
        for first in range(0, len(jobs), _AT_ONCE):
            if time.monotonic() > deadline:
                self._wake.set()
                return
            some = jobs[first : first + _AT_ONCE]
            if self.engine.waits_for_file_system:
                self._for_each(some, self._set_up_job)
            self._for_each(some, self._submit_job, threads=self.engine.waits_for_file_system)
            if self.engine.poll_interval_s is not None:  # other engines tell by themselves
                self._look_again.update(some)

    def _allowed(self, job: Job) -> bool:
        answer = ask(f"Submit {job}? (Yes/skip/never) ", "never")
        if answer in ("n", "never"):
            self._impose(job, gs.STATE_HOLD)
        return answer in ("", "y", "yes")

    def _submit_job(self, job: Job) -> None:
        if job in self.live.imposed:  # it could not be set up
            return
        self._set_up_job(job)
        task = job._sis_next_task()
        if task is not None:
            self._job_of[self.engine.queue_name(task)] = job
            self.engine.submit(task)

    def _set_up_job(self, job: Job) -> None:
        # somebody may have removed it, or moved it aside: sis retry --from-start
        if job not in self._set_up or not job._sis_dir.exists():
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
        except Exception as error:  # any code of a recipe or of settings may stand behind it
            logging.debug("%s cannot be submitted", job, exc_info=error)
            self._refuse(job, f"{type(error).__name__}: {error}. Repair the recipe, and start again.")

    def _refuse(self, job: Job, reason: str) -> None:
        logging.error("%s: %s", job, reason)
        self._impose(job, gs.STATE_QUEUE_ERROR)

    def try_again(self, job: Job) -> None:
        """Forget that a job was refused; to be called by :meth:`do_soon`."""
        self.live.imposed.pop(job, None)

    def _impose(self, job: Job, state: str) -> None:
        self.live.imposed[job] = state
        self._look_again.add(job)
        self._wake.set()

    def _clear_job(self, job: Job) -> None:
        for task in tasks_of(job):
            if any(task.state(self.engine, task_id) == gs.STATE_RUNNING for task_id in task.task_ids()):
                self.engine.cancel(task)
            for task_id in task.task_ids():
                end_leftovers(task.get_last_usage(task_id), job._sis_path())
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


class CreationOrder:
    """The order in which the configs made the jobs: what a person reads first, runs first."""

    def __init__(self) -> None:
        self._number: dict[Job, int] = {}

    def sorted(self, jobs: Collection[Job]) -> list[Job]:
        """Return the jobs in this order."""
        if len(jobs) <= 1:
            return list(jobs)
        if len(self._number) < len(created_jobs):
            self._number = {job: number for number, job in enumerate(list(created_jobs.values()))}
        return sorted(jobs, key=self._number.__getitem__)


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
