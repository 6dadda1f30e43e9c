"""Tasks as processes on this machine, within a budget of cpus, gpus, memory and whatever else is configured.

Each task is a process in a session of its own: it outlives the manager, and the next manager finds it again
by its usage file. A thread waits for each running process; when one ends, the next that fits starts at once
and the manager is woken. Nothing here looks at the clock.
"""

from __future__ import annotations

import logging
import os
import select
import signal
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import sisyphus.global_settings as gs
from sisyphus.engines.base import EngineBase, Requirements
from sisyphus.engines.local_queue import Amounts, Entry, Key, LocalQueue
from sisyphus.errors import EngineError, RefusedError
from sisyphus.job_dir import HOLD, task_entry
from sisyphus.running import usage
from sisyphus.running.task_log import open_log

if TYPE_CHECKING:
    from sisyphus.fork_server.client import ForkServers
    from sisyphus.task import Task

_RECORD = "local"
"""Files ``engine/local.TASK.ID``: the process of a task, and what it was given."""


class LocalEngine(EngineBase):
    """Run tasks as processes on this machine.

    Args:
        cpus: how many cpus all running tasks may ask for together.
        gpus: how many GPUs. The devices are those of ``available_gpus``, else the first of
            CUDA_VISIBLE_DEVICES if that is set, else 0, 1, ...
        available_gpus: names of the devices, separated by commas, as CUDA_VISIBLE_DEVICES takes them.
        resources: ``cpu`` and ``gpu`` as other names of the two above, ``mem`` in GB, and any other countable
            resource. Memory and others are counted only if they are given.

    Raises:
        EngineError: a negative amount, or another number of devices than ``gpus``.
    """

    waits_for_file_system = False

    def __init__(self, cpus: float = 1, gpus: int = 0, available_gpus: str = "", **resources: float) -> None:
        super().__init__()
        self._total: dict[str, float] = {"cpu": cpus, "gpu": gpus, **resources}
        for resource, amount in self._total.items():
            if amount < 0:
                raise EngineError(f"LocalEngine: {resource} must be >= 0, got {amount}.")
        names = [name.strip() for name in available_gpus.split(",") if name.strip()]
        if names and not self._total["gpu"]:
            self._total["gpu"] = len(names)
        self._free_devices = _devices(int(self._total["gpu"]), names)
        self._free = dict(self._total)
        self._queue = LocalQueue()
        self._running: dict[Key, Entry] = {}
        self._refused: dict[Key, str] = {}
        self._stopped = False
        self._fork_servers: ForkServers | None = None
        self._changed = threading.Condition(threading.RLock())

    @property
    def poll_interval_s(self) -> None:
        """Nothing to poll: the end of a process wakes the manager."""
        return None

    def start_engine(self) -> None:
        """Start tasks as they are submitted."""
        self._stopped = False

    def stop_engine(self) -> None:
        """Start no more of the queued tasks. Running ones go on."""
        with self._changed:
            self._stopped = True
            self._queue.clear()
            if self._fork_servers is not None:
                self._fork_servers.close()

    def get_default_rqmt(self, task: Task) -> Requirements:
        """One cpu, 1 GB, one hour (the time is not enforced)."""
        return {"cpu": 1, "mem": 1, "time": 1}

    def get_task_id(self, task_id: int | None) -> int:
        """The id of the command line; 1 if there is none."""
        return 1 if task_id is None else task_id

    def submit_call(
        self,
        call: list[str],
        logpath: str,
        rqmt: Requirements,
        name: str,
        task_name: str,
        task_ids: list[int],
    ) -> tuple[str, Any]:
        """Queue the tasks, and start those that fit.

        Raises:
            RefusedError: a task asks for more than this engine has in total.
        """
        job_dir = os.path.dirname(logpath)
        with self._changed:
            try:
                self._check(rqmt, name)
            except RefusedError as error:
                self._refused.update({(name, task_id): str(error) for task_id in task_ids})
                raise
            for task_id in task_ids:
                log = os.path.join(job_dir, task_entry(gs.JOB_LOG, task_name, task_id))
                self._refused.pop((name, task_id), None)
                markers = _markers(job_dir, task_name, task_id)
                record = os.path.join(logpath, task_entry(_RECORD, task_name, task_id))
                entry = Entry((name, task_id), rqmt, [*call, str(task_id)], log, markers, record)
                self._queue.add(entry, self._amounts(rqmt))
            self._start_fitting()
        self.notify(name)
        return "local", (name, list(task_ids))

    def task_state(self, task: Task, task_id: int) -> str:
        """Also finds processes that an earlier manager started."""
        key = (self.queue_name(task), task_id)
        with self._changed:
            if key in self._running:
                return gs.STATE_RUNNING
            if key in self._queue:
                return gs.STATE_QUEUE
            if key in self._refused:
                return gs.STATE_QUEUE_ERROR
            if self._adopt(task, task_id, key):
                return gs.STATE_RUNNING
        return gs.STATE_UNKNOWN

    def look(self, task: Task, task_id: int) -> str:
        """Whether its process lives, whichever manager started it; the queue of another one is not known."""
        return gs.STATE_UNKNOWN if self._living_process(task, task_id) is None else gs.STATE_RUNNING

    def cancel(self, task: Task, patience_s: float = 10.0) -> None:
        """Stop all ids of a task: SIGTERM to their sessions, and SIGKILL after ``patience_s``.

        Another manager may have started them; what only waits in its queue is not reached.
        """
        name = self.queue_name(task)
        with self._changed:
            for task_id in task.task_ids():
                if (name, task_id) not in self._running:
                    self._adopt(task, task_id, (name, task_id))
            for key in [entry.key for entry in self._queue if entry.key[0] == name]:
                self._queue.remove(key)
            running = [entry for entry in self._running.values() if entry.key[0] == name]
            for signal_number in (signal.SIGTERM, signal.SIGKILL):
                for entry in running:
                    if entry.key in self._running:
                        _signal(entry, signal_number)
                if self._changed.wait_for(
                    lambda: not any(e.key in self._running for e in running), patience_s
                ):
                    return
        raise EngineError(
            f"{name} does not end: stop the processes {[entry.pid for entry in running]} by hand."
        )

    def last_run(self, task: Task, task_id: int) -> str:
        """The process that was started last: the queue is gone when the manager ends, and submitted again."""
        path = os.path.join(task.path(gs.JOB_LOG_ENGINE), task_entry(_RECORD, task.name(), task_id))
        record = usage.read(path)
        return "" if record is None else f"{record.get('pid')} {record.get('process_start')}"

    def activity(self, task: Task, task_id: int) -> float | None:
        """Cpu seconds of the process and its children."""
        import psutil  # asked of tasks that were silent for long

        entry = self._running.get((self.queue_name(task), task_id))
        if entry is None or entry.pid is None:
            return None
        try:
            process = psutil.Process(entry.pid)
            times = [each.cpu_times() for each in (process, *process.children(recursive=True))]
        except psutil.Error:  # it has just ended
            return None
        return sum(each.user + each.system for each in times)

    def end_hanging(self, task: Task, task_id: int) -> bool:
        """SIGKILL to its session: it would not hear anything else."""
        with self._changed:
            entry = self._running.get((self.queue_name(task), task_id))
            if entry is None:
                return False
            _signal(entry, signal.SIGKILL)
        return True

    def _check(self, rqmt: Requirements, name: str) -> None:
        if usage.hostname() in rqmt.get("exclude_nodes", ()):
            raise RefusedError(
                f"{name} must not run on {usage.hostname()} any more (a failure excluded it), and the local "
                "engine has no other machine. Send it to a cluster engine, or mend what it failed of and "
                "remove its submit_log."
            )
        if rqmt.get("multi_node_slots", 1) > 1:
            raise RefusedError(
                f"{name} asks for multi_node_slots={rqmt['multi_node_slots']}, but the local engine is one "
                "machine. Ask for 1, or send it to a cluster engine."
            )
        for resource, total in self._total.items():
            asked = rqmt.get(resource, 0)
            if not isinstance(asked, int | float):
                raise RefusedError(f"{name} asks for {resource}={asked!r}, which is no number.")
            if asked > total:
                raise RefusedError(
                    f"{name} asks for {resource}={asked:g}, but this engine has {total:g} in total. Ask for "
                    "less (rqmt in the recipe, job.update_rqmt in the config), or give "
                    f"LocalEngine({resource}=...) more in the settings file."
                )

    def _adopt(self, task: Task, task_id: int, key: Key) -> bool:
        """Count a process that this engine did not start; False if there is none."""
        used = self._living_process(task, task_id)
        if used is None:
            return False
        pid: int = used["pid"]
        devices = [name for name in str(used.get("cuda_visible_devices") or "").split(",") if name]
        taken = [name for name in devices if name in self._free_devices]
        markers = _markers(task.job._sis_path(), task.name(), task_id)
        rqmt = dict(used.get("requested_resources") or {})
        entry = Entry(key, rqmt, markers=markers, pid=pid, devices=taken)
        logging.info("Found running: %s %s (process %d)", task.job, task.name(), pid)
        self._take(entry)
        self._watch(entry, lambda: _wait_for_stranger(pid))
        return True

    @staticmethod
    def _living_process(task: Task, task_id: int) -> dict[str, Any] | None:
        """What the engine that started a task, or its worker, noted about its process; None if it is dead."""
        job_dir = task.job._sis_path()
        record = os.path.join(task.path(gs.JOB_LOG_ENGINE), task_entry(_RECORD, task.name(), task_id))
        for path in (record, task.path(gs.PLOGGING_FILE, task_id)):
            used = usage.read(path)
            if used is not None and usage.is_alive(used, job_dir=job_dir, task_name=task.name()):
                return used
        return None

    def _amounts(self, rqmt: Requirements) -> Amounts:
        return tuple(rqmt.get(resource, 0) for resource in self._total)

    def _start_fitting(self) -> None:
        """Start queued tasks in their order; later ones may overtake one that does not fit."""
        while not self._stopped and (entry := self._queue.take_first(self._fits)) is not None:
            self._start(entry)

    def _fits(self, amounts: Amounts) -> bool:
        return all(amount <= free for amount, free in zip(amounts, self._free.values(), strict=True))

    def _start(self, entry: Entry) -> None:
        if Path(entry.markers[0]).exists():  # another manager was faster
            return
        if (Path(entry.log).parent / HOLD).exists():  # a person wants it to wait
            self.notify(entry.key[0])
            return
        entry.devices = self._free_devices[: int(entry.rqmt.get("gpu", 0))]
        environment = dict(os.environ)
        if self._total["gpu"]:  # without GPUs to share out, what tasks see is not our business
            environment["CUDA_VISIBLE_DEVICES"] = ",".join(entry.devices)
        try:
            with open_log(entry.log) as log:
                entry.pid, wait = self._start_process(entry, environment, log)
        except OSError as error:
            self._refused[entry.key] = f"cannot start {entry.call[0]!r}: {error}. Check the worker wrapper."
            logging.error("%s: %s", entry.key[0], self._refused[entry.key])
            return
        self._note(entry)
        self._take(entry)
        self._watch(entry, wait)
        self.notify(entry.key[0])

    def _start_process(
        self, entry: Entry, environment: dict[str, str], log: BinaryIO
    ) -> tuple[int, Callable[[], object]]:
        """Its pid, and what returns when it has ended."""
        if self._fork_servers is None:
            from sisyphus.fork_server.client import (
                ForkServers,
            )  # workers have engines, too, and start nothing

            self._fork_servers = ForkServers()
        forked = self._fork_servers.fork(entry.call, environment, entry.rqmt.get("cpu", 1), log.fileno())
        if forked is not None:
            return forked.pid, forked.wait
        process = subprocess.Popen(
            entry.call,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            env=environment,
        )
        return process.pid, process.wait

    def _note(self, entry: Entry) -> None:
        """Note the process for later managers: they may come before the worker has written its usage file."""
        assert entry.pid is not None, "it was started"
        devices = ",".join(entry.devices)
        record = {"requested_resources": entry.rqmt, "cuda_visible_devices": devices}
        try:
            usage.write(entry.record, {**usage.identify(entry.pid), **record})
        except OSError as error:
            logging.warning("Cannot note process %d in %s: %s", entry.pid, entry.record, error)

    def _take(self, entry: Entry) -> None:
        self._running[entry.key] = entry
        self._free_devices = [name for name in self._free_devices if name not in entry.devices]
        for resource in self._free:
            self._free[resource] -= entry.rqmt.get(resource, 0)

    def _watch(self, entry: Entry, wait: Callable[[], object]) -> None:
        """Give back what the entry holds as soon as ``wait`` returns."""

        def release() -> None:
            wait()
            _end_what_is_left(entry)
            with self._changed:
                del self._running[entry.key]
                self._free_devices = sorted([*self._free_devices, *entry.devices], key=_device_order)
                for resource in self._free:
                    self._free[resource] += entry.rqmt.get(resource, 0)
                self._start_fitting()
                self._changed.notify_all()
            self.notify(entry.key[0])

        threading.Thread(target=release, name=f"wait for {entry.key[0]}", daemon=True).start()


def _devices(count: int, names: list[str]) -> list[str]:
    """The devices of an engine with ``count`` GPUs."""
    if names and len(names) != count:
        raise EngineError(
            f"LocalEngine: available_gpus names {len(names)} devices ({','.join(names)}), but gpus={count}. "
            "Give the same number, or leave out gpus."
        )
    visible = [name for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name]
    if not names and len(visible) >= count:
        names = visible
    return (names or [str(index) for index in range(count)])[:count]


def _device_order(name: str) -> tuple[int, str]:
    return (int(name), "") if name.isdecimal() else (1 << 30, name)


def _markers(job_dir: str, task_name: str, task_id: int) -> tuple[str, ...]:
    kinds = (gs.STATE_FINISHED, gs.STATE_ERROR)
    return tuple(os.path.join(job_dir, task_entry(kind, task_name, task_id)) for kind in kinds)


def _end_what_is_left(entry: Entry) -> None:
    """Kill the children of an interrupted task: its next run would find them at work in the same folder."""
    assert entry.pid is not None, "it was started"
    if any(Path(marker).exists() for marker in entry.markers):
        return  # it ended by itself, and what it left running, it left on purpose
    try:
        os.killpg(entry.pid, signal.SIGKILL)
    except ProcessLookupError:  # the usual case: nothing is left
        return
    except PermissionError as error:
        logging.warning("%s was interrupted, its children run on: %s", entry.key[0], error)
        return
    logging.info("%s was interrupted, ended the processes that it left", entry.key[0])


def _signal(entry: Entry, signal_number: int) -> None:
    pid = entry.pid
    assert pid is not None, "running entries have a process"
    try:
        if os.getpgid(pid) == pid:
            os.killpg(pid, signal_number)
        else:  # started by hand in somebody's shell
            os.kill(pid, signal_number)
    except ProcessLookupError:  # it has ended by itself
        return


def _wait_for_stranger(pid: int) -> None:
    """Wait for the end of a process that is not our child.

    On Linux nothing is imported for it: a thread that loads a library while the program ends crashes it.
    """
    try:
        handle = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    except (AttributeError, OSError):  # another system, or an old kernel
        _wait_with_psutil(pid)
        return
    poll = select.poll()
    poll.register(handle, select.POLLIN)
    poll.poll()
    os.close(handle)


def _wait_with_psutil(pid: int) -> None:
    import psutil

    try:
        psutil.Process(pid).wait()
    except psutil.NoSuchProcess:
        return
