"""A project that is being disturbed: its managers, its running tasks, its journal."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

COMMAND = [sys.executable, "-m", "sisyphus", "manager", "-r", "-co", "-cio", "config/exp.py"]
"""With the answers that a person would give: run failed and interrupted jobs again."""


@dataclass(frozen=True)
class Running:
    """A task that is at work now."""

    key: str
    pid: int


class Project:
    """One folder with one graph.

    Args:
        path: the folder.
        journal: the file that jobs note their begins and ends in; outside of the folder.
        seed: of the random deaths inside of processes.
    """

    def __init__(self, path: Path, journal: Path, seed: int) -> None:
        self.path, self.journal, self.seed = path, journal, seed
        self.manager: subprocess.Popen[str] | None = None
        self.log = journal.with_name(f"{journal.name}.log")

    # managers

    def start(self, *, doom: str = "0 1", workers_doom: str = "0 1") -> subprocess.Popen[str]:
        """Start a manager.

        Args:
            doom: with which chance it dies, and before how many accesses to files at the latest.
            workers_doom: the same for the workers that it starts.
        """
        environment = {name: value for name, value in os.environ.items() if not name.startswith("SIS_")}
        self.seed += 1
        environment |= {
            "CHAOS_MANAGER": doom,
            "CHAOS_WORKER": workers_doom,
            "CHAOS_SEED": str(self.seed),
            "PYTHONWARNINGS": "error",
        }
        with self.log.open("a") as log:
            log.write(f"--- {time.strftime('%X')} manager\n")
            log.flush()
            return subprocess.Popen(
                COMMAND,
                cwd=self.path,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                text=True,
                env=environment,
                start_new_session=True,
                preexec_fn=_heed_ctrl_c,
            )

    def manager_runs(self) -> bool:
        return self.manager is not None and self.manager.poll() is None

    def log_since(self, offset: int) -> str:
        with self.log.open() as log:
            log.seek(offset)
            return log.read()

    # tasks

    def lines(self) -> list[list[str]]:
        return (
            [line.split() for line in self.journal.read_text().splitlines()] if self.journal.exists() else []
        )

    def running(self) -> list[Running]:
        """Tasks whose method is at work."""
        ended = {(words[1], words[2]) for words in self.lines() if words[0] == "end"}
        return [
            Running(words[1], int(words[2]))
            for words in self.lines()
            if words[0] == "begin" and (words[1], words[2]) not in ended and _lives(int(words[2]), words[3])
        ]

    def count(self, word: str) -> int:
        return Counter(words[0] for words in self.lines())[word]

    def processes(self) -> list[psutil.Process]:
        """Everything that works in the folder, other than this process."""
        found = []
        for process in psutil.process_iter():
            with suppress(psutil.Error):
                if process.pid != os.getpid() and process.cwd().startswith(str(self.path)):
                    found.append(process)
        return found

    def kill_everything(self) -> None:
        """SIGKILL to all processes of the folder, also frozen ones."""
        while left := self.processes():
            for process in left:
                with suppress(psutil.NoSuchProcess):
                    process.kill()
            psutil.wait_procs(left, 2)
        if self.manager is not None:
            self.manager.wait()
            self.manager = None


def _heed_ctrl_c() -> None:
    """A harness in the background ignores SIGINT, and its children would inherit that."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def _lives(pid: int, start: str) -> bool:
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return False
    return fields[19] == start and fields[0] not in "ZX"
