"""Task: one step of a job, with its requirements, arguments and state."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from sisyphus import global_settings as gs
from sisyphus.job_dir import SHARED_ENTRIES, task_entry
from sisyphus.states import State, TaskEvidence, combined, task_id_state

if TYPE_CHECKING:
    from sisyphus.engines.base import EngineBase
    from sisyphus.job import Job


class Task:
    """One step of a job; ids count from 1.

    Args:
        start: name of the method to run, and of the task.
        resume: name of the method for restarts; None: an interrupted task cannot be restarted.
        rqmt: requirements: cpu, gpu, mem (GB, or text with unit), time (hours, or ``H:MM:SS``), and more that
            engines know.
        args: list of argument lists, one for each id; what is no list or tuple is a single argument.
        mini_task: short enough to run beside the manager (asks for the engine ``short``).
        update_rqmt: function of the last requirements and usage that returns new ones after an interruption.
        parallel: 0: an id for each element of args; n: n ids that share the elements.
        tries: how often a failing task is run.
        continuable: never ends: it writes no finished marker.
    """

    def __init__(
        self,
        start: str,
        resume: str | None = None,
        rqmt: Mapping[str, Any] | None = None,
        args: Sequence[Any] | None = None,
        mini_task: bool = False,
        update_rqmt: Callable[[dict[str, Any], dict[str, Any]], dict[str, Any]] | None = None,
        parallel: int = 0,
        tries: int = 1,
        continuable: bool = False,
    ) -> None:
        self._start = start
        self._resume = resume
        self._rqmt = dict(rqmt or {})
        if mini_task:
            self._rqmt["engine"] = "short"
        self.mini_task = mini_task
        self._args = [[]] if args is None else list(args)
        self._given_update_rqmt = update_rqmt
        self._parallel = parallel
        self.tries = tries
        self.continuable = continuable
        self._job: Job

    def __repr__(self) -> str:
        return f"<Task {self._start!r} of {getattr(self, '_job', 'no job')}>"

    # --- its job ---

    def set_job(self, job: Job) -> None:
        """Say whose task it is.

        Raises:
            AttributeError: if the job lacks a method that the task names.
        """
        for name in filter(None, (self._start, self._resume)):
            if not hasattr(job, name):
                logging.critical(f"{job} has a task {self._start!r}, but no method {name!r}")
                raise AttributeError(
                    f"{type(job).__name__} has no method {name!r}, which its task {self._start!r} names. "
                    "Check the text given to Task(...)."
                )
        self._job = job

    @property
    def job(self) -> Job:
        """The job that this is a task of."""
        return self._job

    def name(self) -> str:
        """Return the name, which is that of its method."""
        return self._start

    # --- ids and arguments ---

    def task_ids(self) -> list[int]:
        """Return all ids, from 1."""
        return list(range(1, (self._parallel or len(self._args)) + 1))

    def arguments(self, task_id: int) -> list[list[Any]]:
        """Return the argument lists that this id runs, one after the other.

        Raises:
            ValueError: if there is no such id.
        """
        if task_id not in self.task_ids():
            raise ValueError(
                f"task {self._start!r} has no id {task_id}: its ids are 1 to {len(self.task_ids())}"
            )
        first, last = self._share(task_id)
        return [list(arg) if isinstance(arg, (list, tuple)) else [arg] for arg in self._args[first:last]]

    def _share(self, task_id: int) -> tuple[int, int]:
        """First and last element (exclusive) of an id; the first shares are one longer if need be."""
        if not self._parallel:
            return task_id - 1, task_id
        size, longer = divmod(len(self._args), self._parallel)
        first = (task_id - 1) * size + min(task_id - 1, longer)
        return first, first + size + (task_id <= longer)

    def method_name(self, resume: bool) -> str:
        """Return the method to run: on a restart the one for restarts, if there is one."""
        return self._resume if resume and self._resume is not None else self._start

    def resumeable(self) -> bool:
        """Whether it can go on after an interruption."""
        return self._resume is not None

    # --- requirements ---

    def rqmt(self) -> dict[str, Any]:
        """Return the requirements that the recipe or the config asks for."""
        return dict(self._rqmt)

    def set_rqmt(self, rqmt: Mapping[str, Any]) -> None:
        """Replace the requirements."""
        self._rqmt = dict(rqmt)

    def extend_rqmt(self, rqmt: Mapping[str, Any]) -> None:
        """Change some of the requirements."""
        self._rqmt.update(rqmt)

    def _update_rqmt(self, last_rqmt: dict[str, Any], last_usage: dict[str, Any]) -> dict[str, Any]:
        """Return the requirements for the run after an interruption."""
        return (self._given_update_rqmt or gs.update_engine_rqmt)(dict(last_rqmt), last_usage)

    # --- files ---

    def path(self, kind: str | None = None, task_id: int | None = None) -> str:
        """Return the path of one of its files (``log``), or of something of its job (``work``)."""
        if kind is None or kind in SHARED_ENTRIES:
            return self.job._sis_path(kind)
        return self.job._sis_dir.entry(task_entry(kind, self._start, task_id))

    def get_worker_call(self, task_id: int | None = None) -> list[str]:
        """Return the command that runs it."""
        command = gs.SIS_COMMAND
        if isinstance(command, str):
            import shlex

            command = shlex.split(command)
        call = [*command, gs.CMD_WORKER, self.job._sis_path(), self._start]
        if task_id is not None:
            call.append(str(task_id))
        return self.job._sis_worker_wrapper(self.job, self._start, call)

    # --- state ---

    def _marked(self, kind: str, names: frozenset[str], task_id: int | None) -> list[bool]:
        ids = self.task_ids() if task_id is None else [task_id]
        return [task_entry(kind, self._start, each) in names for each in ids]

    def finished(self, task_id: int | None = None) -> bool:
        """Whether this id, or all ids, are finished."""
        return all(self._marked(gs.JOB_FINISHED_MARKER, self.job._sis_dir.names(), task_id))

    def error(self, task_id: int | None = None) -> bool:
        """Whether this id, or any, failed for good; tries that are left are taken here."""
        ids = self.task_ids() if task_id is None else [task_id]
        names = self.job._sis_dir.names()
        failed = [each for each in ids if self._marked(State.ERROR.value, names, each)[0]]
        return any([not self._try_again(each) for each in failed])  # all of them, not up to the first

    def started(self, task_id: int | None = None) -> bool:
        """Whether this id, or any, was ever started."""
        return any(self._marked(gs.JOB_LOG, self.job._sis_dir.names(), task_id))

    def _try_again(self, task_id: int) -> bool:
        if self.tries <= 1:
            return False
        try:
            return self.put_failure_aside(task_id, self.tries - 1)
        except OSError as error:  # a full disk, a folder that is not writable: it stays in error
            logging.warning(f"Cannot put a failed try of {self.job} aside: {error}")
            return False

    def put_failure_aside(self, task_id: int, max_times: int) -> bool:
        """Let a failed id run again, without what its try left running; False if it had its tries."""
        used = self.get_last_usage(task_id)
        done = self.job._sis_dir.reset_error(self._start, task_id, max_times)
        if done:
            from sisyphus.running.leftovers import end_leftovers  # seldom needed, and slow to import

            end_leftovers(used, self.job._sis_path())
        return done

    def state(self, engine: EngineBase | None, task_id: int | None = None, force: bool = False) -> State:
        """Return the state of this id, or of the whole task.

        Args:
            engine: asked about ids without marker; None: nothing is known to run.
            task_id: None for all.
            force: without meaning, since states are never remembered; upstream has it.
        """
        names = self.job._sis_dir.names()
        if task_id is not None:
            return self._state_of_id(engine, task_id, names)
        return combined([self._state_of_id(engine, each, names) for each in self.task_ids()])

    def _state_of_id(self, engine: EngineBase | None, task_id: int, names: frozenset[str]) -> State:
        if self._marked(gs.JOB_FINISHED_MARKER, names, task_id)[0]:
            return State.FINISHED
        failed = self._marked(State.ERROR.value, names, task_id)[0]
        if failed and self._try_again(task_id):
            failed, names = False, self.job._sis_dir.names()
        if failed:
            return State.ERROR
        report = State.UNKNOWN if engine is None else engine.task_state(self, task_id)
        names = self.job._sis_dir.names()  # it may have ended between the first look and the engine's answer
        has_log = self._marked(gs.JOB_LOG, names, task_id)[0]
        was_lost = (
            has_log and report == State.UNKNOWN
        )  # only then its files are asked when it was last heard of
        return task_id_state(
            TaskEvidence(
                finished=self._marked(gs.JOB_FINISHED_MARKER, names, task_id)[0],
                error=self._marked(State.ERROR.value, names, task_id)[0],
                engine=report,
                has_log=has_log,
                began=self._marked(gs.PLOGGING_FILE, names, task_id)[0],
                silence_s=self._silence_s(task_id) if was_lost else 0.0,
                patience_s=self._patience_s(engine, task_id) if was_lost else 0.0,
                num_submissions=self._submissions_without_progress(engine, task_id) if was_lost else 0,
                max_submissions=gs.MAX_SUBMIT_RETRIES,
                resumable=self.resumeable(),
            )
        )

    def _silence_s(self, task_id: int) -> float:
        return self.job._sis_dir.silence_s(self._start, task_id, time.time())

    def _patience_s(self, engine: EngineBase | None, task_id: int) -> float:
        """How long this id, which the engine does not know, may be silent before it counts as interrupted."""
        if engine is not None and engine.has_ended(self, task_id):
            return 0.0
        return float(gs.WAIT_PERIOD_JOB_FS_SYNC + gs.PLOGGING_UPDATE_FILE_PERIOD + gs.WAIT_PERIOD_JOB_CLEANUP)

    def _submissions_without_progress(self, engine: EngineBase | None, task_id: int) -> int:
        """Submissions of this id that led to a run, since the job last got further.

        A local engine forgets its queue when the manager ends, and what was queued is submitted once more:
        such submissions say nothing about the task.
        """
        history = [info for ids, info in self.job._sis_dir.submissions(self._start) if task_id in ids]
        if len(history) <= gs.MAX_SUBMIT_RETRIES:  # the usual case: nothing more has to be read
            return len(history)
        now = None if engine is None else engine.last_run(self, task_id)
        runs = [info.get("after_run") for info in history]
        led_to_a_run = [
            before is None or before != (now if after is None else after)
            for before, after in zip(runs, [*runs[1:], None], strict=True)
        ]
        progress = [info.get("completed_fraction") or 0.0 for info in history]
        latest = max(progress[-1], self._fraction_now())
        return sum(ran and at >= latest for ran, at in zip(led_to_a_run, progress, strict=True))

    def _fraction_now(self) -> float:
        """How much of the job is done, 0 to 1; 0 where it does not tell."""
        try:
            return float(self.job.completed_fraction() or 0.0)
        except Exception as error:  # noqa: BLE001 - any code of a recipe may stand behind it
            logging.debug(f"{self.job}.completed_fraction() failed: {error!r}")
            return 0.0

    def get_process_logging_path(self, task_id: int) -> str:
        """Return the path of its usage file."""
        return self.path(gs.PLOGGING_FILE, task_id)

    def get_last_usage(self, task_id: int) -> dict[str, Any]:
        """Return its usage file; empty if there is none."""
        from sisyphus.running import usage

        return usage.read(os.path.join(gs.BASE_DIR, self.get_process_logging_path(task_id))) or {}
