"""One manager for each work folder: a second one is told who was first, or takes over from a dead one.

Two files in the work folder: ``.manager.lock``, which the kernel lets only one living process of a machine
lock, and ``.manager.json``, which says who that is. Managers on other machines are judged by the age of the
second, which a living manager touches again and again; the age is measured by the clock of the file system.
"""

from __future__ import annotations

import errno
import fcntl
import json
import logging
import os
import sys
import threading
import time
from collections.abc import Mapping
from typing import Any

import sisyphus.global_settings as gs
from sisyphus.atomic_files import remove_if_there, write_atomically
from sisyphus.errors import AnotherManagerError, SisyphusError
from sisyphus.running import usage

_HELD_BY_ANOTHER = (errno.EACCES, errno.EAGAIN)
_IDENTITY = ("host", "pid", "process_start")


class Ownership:
    """The right to run jobs in a work folder.

    Args:
        work_dir: the folder, relative to the project or absolute.
    """

    def __init__(self, work_dir: str) -> None:
        self._work_dir = work_dir
        self._record = os.path.join(work_dir, ".manager.json")
        self._lock_path = os.path.join(work_dir, ".manager.lock")
        self._lock: int | None = None
        self._mine: dict[str, Any] | None = None
        self._looked_at = float("-inf")
        self._ended = threading.Event()

    def acquire(self) -> None:
        """Become the owner, unless this process is that already.

        Raises:
            AnotherManagerError: another manager works in the folder.
            SisyphusError: nothing can be written there.
        """
        if self._mine is not None or not gs.ONE_MANAGER:
            return
        try:
            os.makedirs(self._work_dir, exist_ok=True)
            self._take_lock()
            self._take_over()
        except OSError as error:
            self.release()
            raise SisyphusError(
                f"cannot note in {os.path.abspath(self._work_dir)} that a manager works there: {error}. "
                f"Make room, "
                "or make it writable, and start again."
            ) from error
        except AnotherManagerError:
            self.release()
            raise
        self._ended.clear()
        threading.Thread(target=self._touch, args=(self._ended,), name="heartbeat", daemon=True).start()

    def is_lost(self, *, look_every_s: float = 0.0) -> bool:
        """Whether another manager has taken over, because this one seemed to be dead.

        Args:
            look_every_s: for so long after the last look the answer is no.
        """
        if self._mine is None or time.monotonic() - self._looked_at < look_every_s:
            return False
        self._looked_at = time.monotonic()
        try:
            record = self._read()
            if record is None:  # removed by somebody, or by a cleaning of everything that is no job
                self._write(self._mine)
                return False
        except OSError as error:  # a full disk, a server that does not answer: no sign of another manager
            logging.debug("Cannot look at %s: %s", self._record, error)
            return False
        return any(record.get(name) != self._mine[name] for name in _IDENTITY)

    def release(self) -> None:
        """Let the next manager in."""
        self._ended.set()
        if self._mine is not None and not self.is_lost():
            remove_if_there(self._record)
        self._mine = None
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def _take_lock(self) -> None:
        """Lock the file; where file systems or permissions do not allow that, the record has to do."""
        try:
            self._lock = os.open(self._lock_path, os.O_RDWR | os.O_CREAT, 0o666)
            fcntl.lockf(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in _HELD_BY_ANOTHER and self._lock is not None:
                raise AnotherManagerError(self._who(self._read())) from error
            if error.errno in (errno.ENOSPC, errno.EROFS, errno.EDQUOT):
                raise
            logging.debug("%s cannot be locked: %s", self._lock_path, error)

    def _take_over(self) -> None:
        record = self._read()
        if record is not None and self._is_alive(record):
            raise AnotherManagerError(self._who(record))
        mine = {
            **usage.identify(os.getpid()),
            "user": os.environ.get("USER") or str(os.getuid()),
            "since": time.strftime("%Y-%m-%d %H:%M:%S"),
            "project": gs.BASE_DIR,
            "command": " ".join(sys.argv),
        }
        self._write(mine)
        self._mine = mine
        if record is not None:
            logging.warning(
                "The manager before, process %s on %s, ended without a word: this one takes over what it "
                "started",
                record.get("pid"),
                record.get("host"),
            )

    def _is_alive(self, record: Mapping[str, Any]) -> bool:
        if usage.is_local(record):
            pid = record.get("pid")
            alive = isinstance(pid, int) and usage.process_start(pid) == record.get("process_start")
            return alive and pid != os.getpid()
        return self._age_s() < gs.MANAGER_DEAD_AFTER

    def _age_s(self) -> float:
        """Seconds since the owner touched its record, by the clock of the file system."""
        now = time.time()
        if self._lock is not None:
            os.utime(self._lock)
            now = os.fstat(self._lock).st_mtime
        try:
            return now - os.stat(self._record).st_mtime
        except FileNotFoundError:
            return float("inf")

    def _who(self, record: Mapping[str, Any] | None) -> str:
        place = os.path.abspath(self._work_dir)
        if record is None:
            return f"another manager has just started in {place}. Wait for it, or start this one once more."
        text = (
            f"another manager works in {place}: process {record.get('pid')} on {record.get('host')}, of "
            f"{record.get('user')}, since {record.get('since')}: {record.get('command')}"
        )
        age_s = self._age_s()
        if age_s > 3 * gs.MANAGER_HEARTBEAT:
            text += f"\nIts last sign of life is {age_s:.0f} s old: it hangs, or its machine is gone."
        if usage.is_local(record):
            return f"{text}\nWait for it, or end it: kill {record.get('pid')}. Its running tasks go on."
        return f"{text}\nWait for it, or end it there; it counts as dead after {gs.MANAGER_DEAD_AFTER} s."

    def _read(self) -> dict[str, Any] | None:
        try:
            with open(self._record, encoding="utf-8") as file:
                record = json.load(file)
        except (FileNotFoundError, json.JSONDecodeError):
            return None
        return record if isinstance(record, dict) else None

    def _write(self, record: Mapping[str, Any]) -> None:
        write_atomically(self._record, f"{json.dumps(record, indent=1)}\n".encode())

    def _touch(self, ended: threading.Event) -> None:
        while not ended.wait(gs.MANAGER_HEARTBEAT):
            try:
                os.utime(self._record)
            except OSError as error:
                logging.debug("No heartbeat in %s: %s", self._record, error)
