"""The engine that the manager speaks to, the same for all schedulers.

Success is what the files of a job say. The scheduler is asked about what a dying task cannot say itself:
killed for memory, out of time, node lost, cancelled.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable, Collection
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

from sisyphus import global_settings as gs
from sisyphus.atomic_files import append_line
from sisyphus.engines.base import EngineBase, Requirements, SubmitInfo
from sisyphus.engines.cluster import events
from sisyphus.engines.cluster.books import Books
from sisyphus.engines.cluster.commands import CommandFailed, Unreachable
from sisyphus.engines.cluster.queue_watch import Picture, QueueWatch
from sisyphus.engines.cluster.scheduler import (
    OFFSET_VARIABLE,
    End,
    Entry,
    Phase,
    Request,
    Scheduler,
    SubmissionLost,
)
from sisyphus.errors import DeferSubmission, EngineError, RefusedError
from sisyphus.terminal.overview import last_lines

if TYPE_CHECKING:
    from sisyphus.task import Task

Key = tuple[str, int]
"""A task id: queue name and number."""

LONGEST_NAME = 200
BETWEEN_SUBMISSIONS_S = 0.05
DEFERRED_S = 60.0
"""After the scheduler took no more, it is not asked again for so long."""
LOST_S = 10.0
"""So long after a submission whose reply was lost, what was submitted must be in the queue."""
_MOST_STILLBORN = 2
"""Submissions of a task id that ended before the worker began."""
_MOST_TAKEN_AWAY = 10
"""Runs of a task id that were preempted or lost their node, and do not count as tries."""

_MEMORY_KILLS: Final = ("oom-kill", "oom_kill", "Exceeded job memory limit", "TERM_MEMLIMIT")


class ClusterEngine(EngineBase):
    """Submit tasks to a scheduler.

    Args:
        scheduler: its adapter.
        default_rqmt: for what tasks do not ask.
        interval_s: seconds between two looks at the queue.
        job_name_mapping: makes names for the scheduler from ours; the same name for the same task.
        ignore_jobs: ids of the scheduler's jobs that are not looked at.
    """

    def __init__(
        self,
        scheduler: Scheduler,
        default_rqmt: Requirements,
        *,
        interval_s: float = 10.0,
        job_name_mapping: Callable[[str], str] | None = None,
        ignore_jobs: Collection[str] = (),
    ) -> None:
        super().__init__()
        self._scheduler = scheduler
        self._default_rqmt = dict(default_rqmt)
        self._job_name_mapping = job_name_mapping
        self._ignored = frozenset(str(job) for job in ignore_jobs)
        self._books = Books(scheduler)
        self._watch = QueueWatch(scheduler, interval_s=interval_s, on_change=self._tell)
        self._began = time.monotonic()
        self._submitting = threading.Lock()
        self._lock = threading.Lock()
        self._queue_names: dict[str, str] = {}
        """By the name that the scheduler knows."""
        self._submitted: dict[Key, tuple[str, float]] = {}
        """Job id of the last submission, and when it was made."""
        self._unsettled: dict[str, float] = {}
        """Names of which more may be in the queue than was noted, and from when on a look at it can tell."""
        self._deferred_until = 0.0
        self._ended_at: dict[tuple[str, int], float] = {}
        """When an end was first seen, by job id and task id."""
        self._stuck: set[tuple[str, int]] = set()
        """What was said not to start by itself, by job id and task id."""
        self._sure: set[Key] = set()
        """The scheduler saw their last run end, and what they wrote had time to be seen."""
        self._told: set[tuple[str, int]] = set()
        """Ends that were said, by job id and task id."""
        self._alive_before: set[tuple[str, int]] = set()
        """In the queue when this manager began, by job id and task id."""
        self._ended_before: set[tuple[str, int]] = set()
        """Before this manager began, by job id and task id."""
        self._held: dict[Key, str | None] = {}
        """The job whose end was no reason to go on; None: it was refused."""
        self._twins: set[Key] = set()
        self._stillborn: dict[Key, set[str]] = {}
        """Job ids of submissions that ended before their worker began."""
        self._own_task_id = 1

    # --- the manager's side ---

    def start_engine(self) -> None:
        """Begin to watch the queue."""
        os.makedirs(events.folder(), exist_ok=True)
        self._watch.start()
        entries = [entry for its in self._watch.picture.by_task.values() for entry in its]
        self._ended_before = {(e.job_id, e.task_id) for e in entries if e.phase == Phase.ENDED}
        self._alive_before = {(e.job_id, e.task_id) for e in entries if e.phase != Phase.ENDED}

    def stop_engine(self) -> None:
        """Stop watching. Tasks go on."""
        self._watch.stop()

    def get_default_rqmt(self, task: Task) -> Requirements:
        """Those of the settings."""
        return dict(self._default_rqmt)

    def submit_call(
        self,
        call: list[str],
        logpath: str,
        rqmt: Requirements,
        name: str,
        task_name: str,
        task_ids: list[int],
    ) -> tuple[str, Any]:
        """Submit; what the queue has already, because a reply or a manager was lost, is taken over.

        Raises:
            DeferSubmission: the scheduler does not answer, or takes no more for now.
            RefusedError: it will never take it as it is.
        """
        submitted_name = self._name(name)
        request = Request(
            [*call, "--redirect_output"], submitted_name, task_ids, rqmt, os.path.join(gs.BASE_DIR, logpath)
        )
        with self._submitting:
            time.sleep(BETWEEN_SUBMISSIONS_S)
            job_ids = self._submit(request, name)
        now = time.monotonic()
        for job_id, ids in job_ids.items():
            for task_id in ids:
                self._submitted[name, task_id] = job_id, now
                self._held.pop((name, task_id), None)
                self._sure.discard((name, task_id))
        self._watch.look_soon()
        self.notify(name)
        return self._scheduler.name, list(job_ids.items())

    def _submit(self, request: Request, name: str) -> dict[str, list[int]]:
        if time.monotonic() < self._deferred_until:
            raise DeferSubmission("the scheduler took no more a moment ago")
        try:
            found = self._in_the_queue(request)
            left = [task_id for task_id in request.task_ids if task_id not in found]
            job_ids: dict[str, list[int]] = {}
            for task_id, entry in found.items():
                logging.info("Found in the queue: %s %d (%s)", name, task_id, entry.job_id)
                job_ids.setdefault(entry.job_id, []).append(task_id)
            if left:
                self._unsettled[request.name] = time.monotonic()
                job_ids.update(self._scheduler.submit(replace(request, task_ids=left)))
        except (SubmissionLost, Unreachable) as error:
            if isinstance(error, SubmissionLost):
                self._unsettled[request.name] = time.monotonic() + LOST_S
                logging.warning("%s: %s. It is looked for before it is submitted again", name, error)
            self._watch.look_soon()
            raise DeferSubmission(str(error)) from error
        except DeferSubmission as error:
            self._deferred_until = time.monotonic() + DEFERRED_S
            logging.info("Submissions wait for %.0f s: %s", DEFERRED_S, error)
            raise
        except RefusedError:
            self._held.update({(name, task_id): None for task_id in request.task_ids})
            raise
        self._unsettled.pop(request.name, None)
        return job_ids

    def _in_the_queue(self, request: Request) -> dict[int, Entry]:
        """Task ids that are queued or running, as far as a new enough look at the queue can say.

        Raises:
            Unreachable: there is no such look yet.
        """
        since = self._unsettled.get(request.name, self._began)
        if time.monotonic() < since:
            raise Unreachable("a submission was lost a moment ago")
        picture = self._watch.picture_since(since)
        found = {}
        for task_id in request.task_ids:
            living = self._living(picture, request.name, task_id)
            if living:
                found[task_id] = living[0]
        return found

    def _living(self, picture: Picture, name: str, task_id: int) -> list[Entry]:
        return [
            entry
            for entry in picture.entries(name, task_id)
            if entry.phase != Phase.ENDED and entry.job_id not in self._ignored
        ]

    def task_state(self, task: Task, task_id: int) -> str:
        """``queue``, ``running`` or ``queue_error``; ``unknown`` where only files can tell."""
        name = self.queue_name(task)
        key = name, task_id
        if self._is_held(task, key):
            return gs.STATE_QUEUE_ERROR
        submitted_name = self._name(name)
        with self._lock:
            self._queue_names[submitted_name] = name
        picture = self._watch.picture
        living = self._living(picture, submitted_name, task_id)
        if living:
            self._warn_of_twins(key, living)
            self._warn_if_stuck(key, living)
            return _state_of(living)
        job_id, submitted_at = self._last_submission(task, key)
        if job_id is None:
            return gs.STATE_UNKNOWN
        end = picture.entry(submitted_name, task_id, job_id)
        if end is not None:
            return self._state_after(end, task, key)
        if not self._watch.is_reliable or picture.taken_at < submitted_at:
            return gs.STATE_RUNNING if task.started(task_id) else gs.STATE_QUEUE
        if submitted_at == float("-inf") and (job_id, task_id) not in self._alive_before:
            self._ended_before.add((job_id, task_id))
        return self._state_of_gone(task, key, job_id)

    def look(self, task: Task, task_id: int) -> str:
        """Whether it is in the queue; what became of tasks that are not is the manager's to decide."""
        if self._watch.picture.taken_at == float("-inf"):
            self._watch.look()
        living = self._living(self._watch.picture, self._name(self.queue_name(task)), task_id)
        return _state_of(living) if living else gs.STATE_UNKNOWN

    def _is_held(self, task: Task, key: Key) -> bool:
        """Whether a task id waits for a person, who has not yet put its last submission aside (sis retry)."""
        if key not in self._held:
            return False
        if self._held[key] is None or self.get_submit_history(task).get(key[1]):
            return True
        for known in (self._held, self._submitted, self._stillborn):
            known.pop(key, None)
        return False

    def _state_after(self, entry: Entry, task: Task, key: Key) -> str:
        """The state of a task id that ended without a marker."""
        element = entry.job_id, entry.task_id
        seen_at = self._ended_at.setdefault(element, time.monotonic())
        if time.monotonic() - seen_at < gs.WAIT_PERIOD_JOB_FS_SYNC:  # its marker or log may still come
            return gs.STATE_RUNNING
        if entry.end != End.NODE_LOST:  # a node that only the controller cannot reach may still run it
            self._sure.add(key)
        if element not in self._told:
            self._told.add(element)
            logging.warning("%s %d ended without a result (job %s): %s", *key, entry.job_id, entry.said)
        is_ours = element in self._ended_before or f"{entry.job_id} {entry.task_id}" in _cancelled(task)
        if entry.end == End.CANCELLED and not is_ours:
            said = f"cancelled by somebody else: {entry.said}. sis retry runs it again"
            self._hold(key, entry.job_id, said)
            return gs.STATE_QUEUE_ERROR
        if entry.end in (End.NODE_LOST, End.PREEMPTED, End.CANCELLED):
            return gs.STATE_UNKNOWN
        log_dir = os.path.join(gs.BASE_DIR, task.path(gs.JOB_LOG_ENGINE))
        return self._state_of_stillborn(
            task, key, entry.job_id, entry.said, self._scheduler.log_of(log_dir, entry.name, *element)
        )

    def _state_of_gone(self, task: Task, key: Key, job_id: str) -> str:
        """The state of a task id without a marker that the queue no longer shows."""
        _, task_id = key
        ended = self._books.of(job_id, task_id)
        if ended is not None:
            name = self._name(key[0])
            entry = Entry(job_id, task_id, name, Phase.ENDED, ended.end, said=str(ended))
            return self._state_after(entry, task, key)
        if self._books.may_come(job_id, task_id):
            return gs.STATE_RUNNING if task.started(task_id) else gs.STATE_QUEUE
        return self._state_of_stillborn(task, key, job_id, "it is gone from the queue")

    def _state_of_stillborn(
        self, task: Task, key: Key, job_id: str, said: str, log: str | None = None
    ) -> str:
        """Hold a task id if its worker never began, again and again; else only its files can tell."""
        if task.started(key[1]):
            return gs.STATE_UNKNOWN
        jobs = self._stillborn.setdefault(key, set())
        jobs.add(job_id)
        if len(jobs) < _MOST_STILLBORN:
            return gs.STATE_UNKNOWN
        words = "\n".join(last_lines(log, 20)) if log is not None else ""
        self._hold(key, job_id, f"ended before it began, {len(jobs)} times: {said}\n{words}".rstrip())
        return gs.STATE_QUEUE_ERROR

    def _hold(self, key: Key, job_id: str, reason: str) -> None:
        self._held[key] = job_id
        logging.error("%s %d: %s", *key, reason)

    def _last_submission(self, task: Task, key: Key) -> tuple[str | None, float]:
        """Job id and time of the last submission, by this manager or by an earlier one."""
        if key not in self._submitted:
            for info in reversed(self.get_submit_history(task).get(key[1], [])):
                job_id = _job_id(info, key[1])
                if job_id is not None:
                    self._submitted[key] = job_id, float("-inf")
                    break
            else:
                return None, float("-inf")
        return self._submitted[key]

    def _warn_of_twins(self, key: Key, living: list[Entry]) -> None:
        if len(living) > 1 and key not in self._twins:
            self._twins.add(key)
            jobs = ", ".join(entry.job_id for entry in living)
            logging.warning("%s %d is in the queue %d times: %s", *key, len(living), jobs)

    def _warn_if_stuck(self, key: Key, living: list[Entry]) -> None:
        for entry in living:
            if entry.is_stuck and (entry.job_id, entry.task_id) not in self._stuck:
                self._stuck.add((entry.job_id, entry.task_id))
                logging.warning(
                    "%s %d will not start by itself (job %s): %s. Change or release it in the queue; or "
                    "sis cancel, ask for something else, and sis release",
                    *key,
                    entry.job_id,
                    entry.said,
                )

    def get_task_termination_info(self, task: Task, task_id: int, submit_info: SubmitInfo) -> dict[str, Any]:
        """Whether memory or time ran out, as the scheduler says, and what it saw of the memory in use."""
        job_id = _job_id(submit_info, task_id)
        if job_id is None:
            return {}
        name = self._name(self.queue_name(task))
        entry = self._watch.picture.entry(name, task_id, job_id)
        end = entry.end if entry is not None else None
        info: dict[str, Any] = {}
        if end in (None, End.OK, End.FAILED):  # the books tell more than the queue
            ended = self._books.of(job_id, task_id)
            if ended is not None:
                end = ended.end
                most = task.get_last_usage(task_id).get("max", {})
                info["max"] = {**most, "rss": max(most.get("rss", 0.0), ended.max_rss_gb or 0.0)}
        log_dir = os.path.join(gs.BASE_DIR, task.path(gs.JOB_LOG_ENGINE))
        log = self._scheduler.log_of(log_dir, entry.name if entry else name, job_id, task_id)
        said = "\n".join(last_lines(log, 20))
        if end == End.OUT_OF_MEMORY or any(word in said for word in _MEMORY_KILLS):
            info["out_of_memory"] = True
        elif end == End.OUT_OF_TIME:
            info["out_of_time"] = True
        return info

    def last_run(self, task: Task, task_id: int) -> str:
        """How many runs were the task's own tries: preempted ones, and those whose node was lost, are not.

        After so many of those that something must be wrong, they count, too.
        """
        history = self.get_submit_history(task).get(task_id, [])
        if not history:
            return "0"
        known = str(history[-1].get("after_run"))
        counted = int(known) if known.isdecimal() else len(history) - 1
        num_taken_away = len(history) - 1 - counted
        name, job_id = self._name(self.queue_name(task)), _job_id(history[-1], task_id)
        entry = self._watch.picture.entry(name, task_id, job_id)
        ended = self._books.of(job_id, task_id) if entry is None and job_id is not None else entry
        was_taken_away = ended is not None and ended.end in (End.NODE_LOST, End.PREEMPTED)
        return str(counted + (not was_taken_away or num_taken_away >= _MOST_TAKEN_AWAY))

    def has_ended(self, task: Task, task_id: int) -> bool:
        """If the scheduler said so; what it only does not know any more may live."""
        return (self.queue_name(task), task_id) in self._sure

    def activity(self, task: Task, task_id: int) -> float | None:
        """Time goes on for a task that the scheduler itself has stopped for others: it does not hang."""
        living = self._living(self._watch.picture, self._name(self.queue_name(task)), task_id)
        return time.monotonic() if any(entry.is_suspended for entry in living) else None

    def cancel(self, task: Task) -> None:
        """Cancel all ids of a task that are queued or running.

        Raises:
            EngineError: the scheduler does not do it.
        """
        self._cancel(task, task.task_ids())

    def end_hanging(self, task: Task, task_id: int) -> bool:
        """Cancel it; it then runs again where it can resume."""
        self._cancel(task, [task_id])
        return True

    def _cancel(self, task: Task, task_ids: Collection[int]) -> None:
        name = self._name(self.queue_name(task))
        try:
            picture = self._watch.picture_since(time.monotonic())
            living = [entry for task_id in task_ids for entry in self._living(picture, name, task_id)]
            if living:
                for entry in living:  # a manager in another process must know whose doing it was
                    append_line(_cancel_log(task), f"{entry.job_id} {entry.task_id}")
                self._scheduler.cancel(living)
        except Unreachable as error:
            raise EngineError(f"{name} cannot be cancelled: {error}. Try it again later.") from error
        self._watch.look_soon()

    def _name(self, queue_name: str) -> str:
        """The name that the scheduler gets: the same for the same task, and not too long."""
        name = self._job_name_mapping(queue_name) if self._job_name_mapping else queue_name
        return name if len(name) <= LONGEST_NAME else name[-LONGEST_NAME:]  # the hash is at the end

    def _tell(self, submitted_names: set[str], queue_names: set[str]) -> None:
        with self._lock:
            names = queue_names | {
                self._queue_names[name] for name in submitted_names if name in self._queue_names
            }
        for name in names:
            self.notify(name)

    # --- the worker's side ---

    def get_task_id(self, task_id: int | None) -> int:
        """The one of the command line, or the scheduler's number of the array element.

        Raises:
            EngineError: there is neither.
        """
        number = os.environ.get(self._scheduler.task_id_variable, "")
        if task_id is None:
            if not number.isdecimal():
                raise EngineError(
                    f"{self._scheduler.task_id_variable} is {number!r}: this worker does not run in an array "
                    f"of {self._scheduler.name}. Give the task id as the last argument."
                )
            task_id = int(number) + int(os.environ.get(OFFSET_VARIABLE, "0"))
        self._own_task_id = task_id
        return task_id

    def init_worker(self, task: Task) -> None:
        """Tell the manager that the task begins, and that it ends; let tasks on several nodes start more."""
        events.announce(self.queue_name(task), self._own_task_id)
        if task.rqmt().get("multi_node_slots", 1) > 1:
            prefix = self._scheduler.environment_prefix
            of_allocation = {name for name in os.environ if name.startswith(prefix)}
            gs.DEFAULT_ENVIRONMENT_KEEP = {*gs.DEFAULT_ENVIRONMENT_KEEP, *of_allocation}

    def get_job_node_hostnames(self) -> list[str]:
        """In the scheduler's names, which need not be those that the machines give themselves."""
        try:
            return self._scheduler.nodes() or super().get_job_node_hostnames()
        except (CommandFailed, EngineError, Unreachable) as error:
            logging.warning("The scheduler does not name the nodes of this task: %s", error)
            return super().get_job_node_hostnames()


def _state_of(living: Collection[Entry]) -> str:
    """Of a task id that is in the queue."""
    phases = {entry.phase for entry in living}
    if Phase.RUNNING in phases:
        return gs.STATE_RUNNING
    return gs.STATE_QUEUE_ERROR if phases == {Phase.FAULTY} else gs.STATE_QUEUE


def _cancel_log(task: Task) -> str:
    """The file that names what we cancelled of a task: job id and task id, a line each."""
    return os.path.join(gs.BASE_DIR, task.path(gs.JOB_LOG_ENGINE), f"cancelled.{task.name()}")


def _cancelled(task: Task) -> set[str]:
    """The lines of that file."""
    try:
        with open(_cancel_log(task), encoding="utf-8") as file:
            return set(file.read().splitlines())
    except FileNotFoundError:
        return set()


def _job_id(info: SubmitInfo, task_id: int) -> str | None:
    """The scheduler's job of a task id, from the submit log; None if another engine wrote it."""
    engine_info = info.get("engine_info")
    if not isinstance(engine_info, list | tuple):
        return None
    for item in engine_info:
        if isinstance(item, list | tuple) and len(item) == 2 and isinstance(item[1], list | tuple):
            job_id, task_ids = item
            if task_id in task_ids:
                return str(job_id)
    return None
