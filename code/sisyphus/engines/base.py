"""What an engine is: submit a task, say what became of it, cancel it.

An engine subclasses :class:`EngineBase` and defines at least ``submit_call``, ``task_state`` and
``get_task_id``. The manager and the worker know nothing else of engines, and engines know nothing of graphs
or recipes.

The manager sleeps until something happens. An engine that notices the end of its tasks calls
:meth:`EngineBase.notify`, with the task's queue name if it knows it: then only that task is looked at.
One that has to ask a scheduler gives the seconds between two looks as ``poll_interval_s``.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import sisyphus.global_settings as gs
from sisyphus.errors import DeferSubmission, EngineError
from sisyphus.running import usage
from sisyphus.units import str_to_GB, str_to_hours

if TYPE_CHECKING:
    from sisyphus.task import Task

Requirements = dict[str, Any]
"""What a task asks for: cpu, gpu (counts), mem (GB), time (hours), and whatever an engine counts."""

SubmitInfo = dict[str, Any]
"""One submission: the requirements, ``engine_name``, ``engine_info`` and ``completed_fraction``."""


class EngineBase:
    """Base of all engines, with everything that does not depend on the scheduler."""

    waits_for_file_system = True
    """Tasks may run on other hosts: what they write is seen late, and WAIT_PERIOD_* says how late."""

    # of the class: engines of settings files need not call an __init__ of ours
    _on_change: Callable[[], None] | None = None
    _changes: deque[str | None] | None = None

    # What the scheduler answers: to be defined by engines

    def submit_call(
        self,
        call: list[str],
        logpath: str,
        rqmt: Requirements,
        name: str,
        task_name: str,
        task_ids: list[int],
    ) -> tuple[str, Any]:
        """Start ``call`` once for each task id, some time soon.

        Args:
            call: command line; the engine appends the task id or provides it by :meth:`get_task_id`.
            logpath: directory for the files of the scheduler.
            rqmt: requirements of each task id.
            name: name for the queue, the same for the same work.
            task_name: name of the task.
            task_ids: which elements of the task.

        Returns:
            The engine's name, and anything printable that helps to find the submission again.

        Raises:
            DeferSubmission: not now; the attempt does not count.
            RefusedError: never as asked for.
        """
        raise NotImplementedError(f"{type(self).__name__} does not define submit_call")

    def task_state(self, task: Task, task_id: int) -> str:
        """``queue``, ``running`` or ``queue_error``; ``unknown`` if the engine does not have it."""
        raise NotImplementedError(f"{type(self).__name__} does not define task_state")

    def look(self, task: Task, task_id: int) -> str:
        """As :meth:`task_state`, for processes that only look: nothing becomes the engine's own."""
        return self.task_state(task, task_id)

    def get_task_id(self, task_id: int | None) -> int:
        """In a worker: the id it is to run, from its argument or from what the scheduler says."""
        raise NotImplementedError(f"{type(self).__name__} does not define get_task_id")

    # What engines may define

    def start_engine(self) -> None:
        """Called once by the manager before anything is submitted."""

    def stop_engine(self) -> None:
        """Called once when the manager ends. Running tasks go on."""

    def reset_cache(self) -> None:
        """Called before each pass: answers older than this may be dropped."""

    def get_default_rqmt(self, task: Task) -> Requirements:
        """Requirements for what the task does not mention."""
        return {}

    def init_worker(self, task: Task) -> None:
        """Called in a worker before the task runs."""

    def get_job_node_hostnames(self) -> list[str]:
        """In a worker: the hosts that the running task has."""
        return [usage.hostname()]

    def get_task_termination_info(self, task: Task, task_id: int, submit_info: SubmitInfo) -> dict[str, Any]:
        """What the scheduler says of an interrupted run: ``out_of_memory``, ``out_of_time``."""
        return {}

    def get_job_used_resources(self, current_process: Any) -> dict[str, float]:
        """Resources in use by a ``psutil.Process`` and its children: rss and vms in GB, cpu in percent."""
        import psutil

        total = {"cpu": 0.0, "rss": 0.0, "vms": 0.0}
        for process in [current_process, *current_process.children(recursive=True)]:
            try:
                memory = process.memory_info()
                total["cpu"] += process.cpu_percent()
            except psutil.Error:  # it ended while we looked
                continue
            total["rss"] += memory.rss / usage.GB
            total["vms"] += memory.vms / usage.GB
        return total

    def last_run(self, task: Task, task_id: int) -> str | None:
        """What tells the last run of a task id from all others, empty before the first.

        Engines whose queue outlives the manager need not know: None, and every submission leads to a run.
        """
        return None

    def has_ended(self, task: Task, task_id: int) -> bool:
        """Whether ``unknown`` means that the last run is over for sure, so that nothing is waited for."""
        return not self.waits_for_file_system

    def activity(self, task: Task, task_id: int) -> float | None:
        """Something that grows while the processes of a running task id do anything; None: not known."""
        return None

    def end_hanging(self, task: Task, task_id: int) -> bool:
        """Kill a task id that gives no sign of life, at once; False if the engine cannot do that."""
        return False

    def get_used_engine(self, name: str) -> EngineBase:
        """The engine that runs tasks sent to ``name``."""
        return self

    def cancel(self, task: Task) -> None:
        """Stop everything of this task that is queued or running."""
        raise EngineError(
            f"{type(self).__name__} cannot cancel tasks: stop {self.queue_name(task)!r} by hand."
        )

    @property
    def poll_interval_s(self) -> float | None:
        """Seconds after which the manager has to look again; None if :meth:`notify` tells it."""
        return float(gs.WAIT_PERIOD_BETWEEN_CHECKS)

    # Waking the manager

    def connect(self, on_change: Callable[[], None]) -> None:
        """Have ``on_change`` called, from any thread, whenever a state may have changed."""
        self._changes = deque()
        self._on_change = on_change

    def notify(self, name: str | None = None) -> None:
        """Tell the manager that a state may have changed.

        Args:
            name: what :meth:`queue_name` says of the task; None: any of them.
        """
        if self._changes is not None:
            self._changes.append(name)
        if self._on_change is not None:
            self._on_change()

    def take_changes(self) -> set[str | None]:
        """What :meth:`notify` was told since this was last asked."""
        changes: set[str | None] = set()
        while self._changes:  # other threads only add
            changes.add(self._changes.popleft())
        return changes

    # Requirements and the submit log

    @staticmethod
    def queue_name(task: Task) -> str:
        """Name of a task for queues: job id and task, without slashes."""
        return f"{task.job._sis_id()}.{task.name()}".replace("/", ".")

    def get_rqmt(self, task: Task, task_id: int, update: bool = True) -> Requirements:
        """Requirements of one task id: what it asked for, or what it got last.

        A value in the recipe that was never submitted is new and wins; else the value of the last submission,
        which may have been raised, is kept.

        Args:
            task: the task.
            task_id: which element of it.
            update: raise what the last, interrupted run lacked (memory, time).
        """
        asked = normalize({**self.get_default_rqmt(task), **task.rqmt()})
        history = self.get_submit_history(task).get(task_id, [])
        if not history:
            return _limited(asked, task)
        last = history[-1]
        rqmt = {key: _last_value(key, value, history) for key, value in asked.items()}
        if "exclude_nodes" in last:  # decided after a failure; the recipe does not know of it
            rqmt.setdefault("exclude_nodes", last["exclude_nodes"])
        if update and task.started(task_id):
            used = task.get_last_usage(task_id)
            used.update(self.get_task_termination_info(task, task_id, last))
            used.setdefault("requested_resources", rqmt)
            rqmt = normalize(task._update_rqmt(dict(rqmt), used))
        return _limited(rqmt, task)

    def get_submit_history(self, task: Task) -> dict[int, list[SubmitInfo]]:
        """All submissions of a task, oldest first, by task id."""
        history: dict[int, list[SubmitInfo]] = {}
        for ids, info in task.job._sis_dir.submissions(task.name()):
            for task_id in ids:
                history.setdefault(task_id, []).append(info)
        return history

    def submit(self, task: Task) -> int:
        """Submit all ids of a task that can run now, those with equal requirements together.

        Returns:
            How many ids were submitted.

        Raises:
            RefusedError: the task can never run as it is asked for.
        """
        submitted = 0
        call = task.get_worker_call()
        logpath = task.job._sis_path(gs.JOB_LOG_ENGINE)
        for ids, rqmt, after_run in self._runnable_groups(task):
            fraction = task.job.completed_fraction()
            try:
                engine_name, info = self.submit_call(
                    list(call), logpath, dict(rqmt), self.queue_name(task), task.name(), ids
                )
            except DeferSubmission:
                continue
            entry = {
                **rqmt,
                "engine_info": info,
                "engine_name": engine_name,
                "completed_fraction": fraction,
                **({} if after_run is None else {"after_run": after_run}),
            }
            task.job._sis_dir.append_submission(task.name(), ids, entry)
            submitted += len(ids)
        return submitted

    def _runnable_groups(self, task: Task) -> Iterator[tuple[list[int], Requirements, str | None]]:
        """Ids that can run now, with equal requirements, and with the run that they had before."""
        startable = (gs.STATE_RUNNABLE, gs.STATE_INTERRUPTED_RESUMABLE)
        groups: list[tuple[list[int], Requirements, str | None]] = []
        for task_id in task.task_ids():
            if task.state(self, task_id, force=True) not in startable:
                continue
            known = self.get_rqmt(task, task_id), self.last_run(task, task_id)
            for ids, *of_group in groups:
                if tuple(of_group) == known:
                    ids.append(task_id)
                    break
            else:
                groups.append(([task_id], *known))
        yield from groups


class EngineSelector(EngineBase):
    """Several engines under names; a task chooses by ``rqmt["engine"]``. Mini tasks ask for ``short``.

    Args:
        engines: name to engine; the same engine may have several names.
        default_engine: name for tasks that do not choose.
    """

    def __init__(self, engines: Mapping[str, EngineBase], default_engine: str) -> None:
        super().__init__()
        self.engines = dict(engines)
        self.default_engine = default_engine
        self.get_used_engine(default_engine)

    def get_used_engine(self, name: str) -> EngineBase:
        """The engine of that name.

        Raises:
            EngineError: there is none.
        """
        if name not in self.engines:
            known = ", ".join(sorted(self.engines))
            raise EngineError(
                f"unknown engine {name!r}. Known: {known}. Add it to engine() in the settings file, or "
                "change rqmt['engine'] of the task."
            )
        return self.engines[name]

    def get_used_engine_by_rqmt(self, rqmt: Mapping[str, Any]) -> EngineBase:
        """The engine for these requirements."""
        return self.get_used_engine(self._name(rqmt))

    def _name(self, rqmt: Mapping[str, Any]) -> str:
        return str(rqmt.get("engine", self.default_engine))

    def _of(self, task: Task) -> EngineBase:
        return self.get_used_engine_by_rqmt(task.rqmt())

    def _distinct(self) -> list[EngineBase]:
        return list({id(engine): engine for engine in self.engines.values()}.values())

    @property
    def waits_for_file_system(self) -> bool:  # type: ignore[override]
        """Whether any of the engines may run tasks on other hosts."""
        return any(engine.waits_for_file_system for engine in self._distinct())

    @property
    def poll_interval_s(self) -> float | None:
        """The shortest of the engines."""
        periods = [engine.poll_interval_s for engine in self._distinct()]
        return min((period for period in periods if period is not None), default=None)

    def connect(self, on_change: Callable[[], None]) -> None:
        """Have all engines call ``on_change``."""
        for engine in self._distinct():
            engine.connect(on_change)

    def take_changes(self) -> set[str | None]:
        """Those of all engines."""
        return {name for engine in self._distinct() for name in engine.take_changes()}

    def start_engine(self) -> None:
        """Start each engine once."""
        for engine in self._distinct():
            engine.start_engine()

    def stop_engine(self) -> None:
        """Stop each engine once."""
        for engine in self._distinct():
            engine.stop_engine()

    def reset_cache(self) -> None:
        """Reset each engine once."""
        for engine in self._distinct():
            engine.reset_cache()

    def submit_call(
        self,
        call: list[str],
        logpath: str,
        rqmt: Requirements,
        name: str,
        task_name: str,
        task_ids: list[int],
    ) -> tuple[str, Any]:
        """Pass the call on, with ``--engine NAME`` so that the worker knows where it runs."""
        engine_name = self._name(rqmt)
        engine = self.get_used_engine(engine_name)
        if gs.CMD_WORKER not in call:
            raise EngineError(
                f"the worker wrapper must keep the word {gs.CMD_WORKER!r} as an item of its own, "
                f"got {call!r}."
            )
        after = call.index(gs.CMD_WORKER) + 1
        call = [*call[:after], "--engine", engine_name, *call[after:]]
        _, info = engine.submit_call(call, logpath, rqmt, name, task_name, task_ids)
        return engine_name, info

    def task_state(self, task: Task, task_id: int) -> str:
        """As the engine of the task says."""
        return self._of(task).task_state(task, task_id)

    def look(self, task: Task, task_id: int) -> str:
        """As the engine of the task says."""
        return self._of(task).look(task, task_id)

    def get_task_id(self, task_id: int | None) -> int:
        """As the default engine says; workers ask the engine of their task."""
        return self.get_used_engine(self.default_engine).get_task_id(task_id)

    def get_default_rqmt(self, task: Task) -> Requirements:
        """As the engine of the task says."""
        return self._of(task).get_default_rqmt(task)

    def init_worker(self, task: Task) -> None:
        """As the engine of the task does."""
        self._of(task).init_worker(task)

    def last_run(self, task: Task, task_id: int) -> str | None:
        """As the engine of the task says."""
        return self._of(task).last_run(task, task_id)

    def has_ended(self, task: Task, task_id: int) -> bool:
        """As the engine of the task says."""
        return self._of(task).has_ended(task, task_id)

    def activity(self, task: Task, task_id: int) -> float | None:
        """As the engine of the task says."""
        return self._of(task).activity(task, task_id)

    def end_hanging(self, task: Task, task_id: int) -> bool:
        """As the engine of the task does."""
        return self._of(task).end_hanging(task, task_id)

    def get_task_termination_info(self, task: Task, task_id: int, submit_info: SubmitInfo) -> dict[str, Any]:
        """As the engine that ran it says."""
        engine = self.engines.get(submit_info.get("engine_name", self.default_engine))
        return {} if engine is None else engine.get_task_termination_info(task, task_id, submit_info)

    def cancel(self, task: Task) -> None:
        """Cancel it in its engine."""
        self._of(task).cancel(task)


def normalize(rqmt: Mapping[str, Any]) -> Requirements:
    """Requirements as numbers: mem in GB (also ``"4G"``), time in hours (also ``"1:30:00"``)."""
    normal = dict(rqmt)
    if "mem" in normal:
        normal["mem"] = str_to_GB(normal["mem"])
    if "time" in normal:
        normal["time"] = str_to_hours(normal["time"])
    return normal


def _last_value(key: str, value: Any, history: Sequence[SubmitInfo]) -> Any:
    """One requirement for the next try: what was submitted last, unless the recipe's value is new."""
    if any(key in info and info[key] == value for info in history):
        return history[-1].get(key, value)
    return value


def _limited(rqmt: Requirements, task: Task) -> Requirements:
    return dict(gs.check_engine_limits(rqmt, task))
