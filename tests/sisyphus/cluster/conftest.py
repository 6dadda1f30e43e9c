"""A real Slurm for this folder's tests, and a project whose tasks run on it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

import pytest

from . import slurm_cluster
from .slurm_cluster import SlurmCluster

WAITS = """
    # one file system, one host: nothing is seen late
    WAIT_PERIOD_JOB_FS_SYNC = 1
    WAIT_PERIOD_JOB_CLEANUP = 1
    WAIT_PERIOD_CACHE = 1
    WAIT_PERIOD_BETWEEN_CHECKS = 2
    WAIT_PERIOD_MTIME_OF_INPUTS = 0
    PLOGGING_UPDATE_FILE_PERIOD = 1
    PLOGGING_INTERVAL = 1
"""

SETTINGS = (
    """
    from sisyphus.engine import EngineSelector
    from sisyphus.localengine import LocalEngine
    from sisyphus.simple_linux_utility_for_resource_management_engine import (
        SimpleLinuxUtilityForResourceManagementEngine as Slurm,
    )

    def engine():
        slurm = Slurm(default_rqmt={"cpu": 1, "mem": 0.5, "time": 1}, poll_interval=1)
        return EngineSelector({"short": LocalEngine(cpus=2), "long": slurm}, default_engine="long")

    DEFAULT_ENVIRONMENT_KEEP |= {"SLURM_CONF", "SLURMD_NODENAME"}
"""
    + WAITS
)

RECIPE = '''
    """Jobs that note when they run, outside of their folders."""

    import json
    import os
    import time

    from sisyphus import Job, Task, tk


    def note(word, job, index):
        with open(os.environ["HOME"] + "/runs", "a") as file:  # one write: several tasks append
            file.write(f"{word} {job} {index} {os.environ.get('SLURMD_NODENAME', '-')}\\n")


    class Work(Job):
        """Tasks that sleep, use memory, or fail."""

        def __init__(self, name, num=1, seconds=0.0, mib=0, rqmt=None, resume=False, after=()):
            self.name, self.num, self.seconds, self.mib, self.after = name, num, seconds, mib, after
            self.rqmt, self.resume = rqmt or {}, resume
            self.out = self.output_path("out.txt")

        def tasks(self):
            args = [[index] for index in range(self.num)]
            yield Task("run", resume="run" if self.resume else None, rqmt=self.rqmt, args=args)
            yield Task("collect", mini_task=True)

        def run(self, index):
            note("begin", self.name, index)
            try:
                self.work(index)
            finally:  # also if it is asked to end
                note("leave", self.name, index)

        def work(self, index):
            held = bytearray(os.urandom(2**20)) * self.mib
            flag = os.environ["HOME"] + "/go"
            deadline = time.time() + self.seconds
            while time.time() < deadline and not os.path.exists(flag):
                time.sleep(0.1)
            if self.name.startswith("fails"):
                raise ValueError("this task fails")
            with open(f"part.{index}", "w") as file:
                file.write(str(len(held)))
            note("end", self.name, index)

        def collect(self):
            parts = [open(f"part.{index}").read() for index in range(self.num)]
            with open(self.out.get_path(), "w") as file:
                file.write(" ".join(parts))


    class Show(Job):
        """Tasks that write down what they see, and wait until all of them did."""

        def __init__(self, name, variables, num=1, rqmt=None, fail_first=False, env=None):
            self.name, self.variables, self.num, self.fail_first = name, variables, num, fail_first
            self.rqmt = rqmt or {}
            self.out = self.output_path("seen", directory=True)
            for key, value in (env or {}).items():
                self.set_env(key, value)

        def tasks(self):
            yield Task("run", rqmt=self.rqmt, args=range(self.num))

        def run(self, index):
            note("begin", self.name, index)
            if self.fail_first and not self.mark("failed"):
                raise ValueError("this node is broken")
            with open(f"{self.out}/{index}.part", "w") as file:
                json.dump({name: os.environ.get(name) for name in self.variables}, file)
            os.rename(f"{self.out}/{index}.part", f"{self.out}/{index}")
            deadline = time.time() + 30
            while not all(os.path.exists(f"{self.out}/{each}") for each in range(self.num)):
                assert time.time() < deadline, "the others do not run"
                time.sleep(0.1)

        def mark(self, name):
            known = os.path.exists(name)
            open(name, "w").close()
            return known

        def on_failure(self, failure):
            failure.retry(exclude_node=True)
'''


@contextmanager
def running_slurm() -> Iterator[SlurmCluster]:
    """A Slurm of two nodes."""
    reason = slurm_cluster.why_not()
    if reason is not None:
        if os.environ.get("REQUIRE_SLURM"):
            pytest.fail(f"REQUIRE_SLURM is set, but there is {reason}")
        pytest.skip(f"no real Slurm: {reason}")
    with tempfile.TemporaryDirectory(prefix="slurm") as folder:
        slurm = SlurmCluster(Path(folder) / "s")
        try:
            slurm.start()
            yield slurm
        finally:
            slurm.stop()


@pytest.fixture(scope="session")
def cluster() -> Iterator[SlurmCluster]:
    """A running Slurm, for all tests."""
    with running_slurm() as slurm:
        yield slurm


class Cluster(Protocol):
    """Where a project's tasks run."""

    @property
    def environment(self) -> dict[str, str]: ...


class Project:
    """A folder with settings, recipe and configs, and the commands that are run in it."""

    def __init__(self, folder: Path, cluster: Cluster, settings: str = SETTINGS) -> None:
        self.folder, self.cluster = folder, cluster
        self.managers: list[subprocess.Popen[str]] = []
        for path, text in (("settings.py", settings), ("recipe/work.py", RECIPE)):
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / path).write_text(textwrap.dedent(text))
        (folder / "config").mkdir()
        (folder / "home").mkdir()

    def config(self, text: str) -> None:
        """Write the config: statements after the imports."""
        body = textwrap.indent(textwrap.dedent(text), "    ")
        head = "from sisyphus import tk\nfrom recipe.work import Show, Work\n\n\ndef py():\n"
        (self.folder / "config" / "main.py").write_text(head + body)

    def settings(self, text: str) -> None:
        """Add to the settings."""
        with (self.folder / "settings.py").open("a") as file:
            file.write(textwrap.dedent(text))

    @property
    def environment(self) -> dict[str, str]:
        """Of managers; the programs of Slurm are found behind those that note how they are called."""
        of_cluster = self.cluster.environment
        path = f"{self.folder / 'bin'}:{of_cluster['PATH']}"
        return {**of_cluster, "HOME": str(self.folder / "home"), "PATH": path}

    def note_calls(self, *programs: str) -> None:
        """From now on note how programs are called."""
        (self.folder / "bin").mkdir()
        for name in programs:
            real = shutil.which(name, path=self.cluster.environment["PATH"])
            wrapper = self.folder / "bin" / name
            wrapper.write_text(f'#!/bin/sh\necho "$(date +%s.%N) $*" >> "$0.calls"\nexec {real} "$@"\n')
            wrapper.chmod(0o755)

    def calls(self, program: str) -> list[tuple[float, str]]:
        """When a program was called, in seconds, and its arguments."""
        file = self.folder / "bin" / f"{program}.calls"
        lines = file.read_text().splitlines() if file.exists() else []
        return [(float(line.partition(" ")[0]), line.partition(" ")[2]) for line in lines]

    def seen(self, name: str) -> list[dict[str, str]]:
        """What the tasks of a ``Show`` saw."""
        files = sorted((self.folder / "output" / name).iterdir())
        return [json.loads(file.read_text()) for file in files]

    def start(self) -> subprocess.Popen[str]:
        """Start a manager."""
        manager = subprocess.Popen(
            [sys.executable, "-m", "sisyphus", "--config", "config/main.py", "manager", "-r"],
            cwd=self.folder,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self.managers.append(manager)
        return manager

    def finish(self, manager: subprocess.Popen[str], seconds: float = 120) -> str:
        """Wait for its end; returns what it printed."""
        printed, _ = manager.communicate(timeout=seconds)
        return printed

    def sis(self, *args: str, stdin: str = "") -> str:
        """Run another command to its end; what it says."""
        done = subprocess.run(
            [sys.executable, "-m", "sisyphus", *args],
            cwd=self.folder,
            env=self.environment,
            input=stdin,
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout + done.stderr

    def manage(self, seconds: float = 120) -> tuple[int, str]:
        """Run a manager to its end: exit code, and what it printed."""
        manager = self.start()
        printed = self.finish(manager, seconds)
        return manager.returncode, printed

    def runs(self, word: str) -> list[str]:
        """What tasks noted: ``job index node``."""
        file = self.folder / "home" / "runs"
        lines = file.read_text().splitlines() if file.exists() else []
        return [line.partition(" ")[2] for line in lines if line.startswith(f"{word} ")]

    def go(self) -> None:
        """Let sleeping tasks end."""
        (self.folder / "home" / "go").touch()

    def output(self, name: str) -> str:
        """A registered output."""
        return (self.folder / "output" / name).read_text()

    def end(self) -> None:
        """End its managers, and let its tasks end."""
        self.go()
        for manager in self.managers:
            manager.kill()
            if manager.stdout is not None and not manager.stdout.closed:
                manager.communicate()


@pytest.fixture
def project(cluster: SlurmCluster, tmp_path: Path) -> Iterator[Project]:
    """A new project."""
    made = Project(tmp_path, cluster)
    yield made
    made.end()
    for name in cluster.nodes:
        if cluster.processes[name].poll() is not None:
            cluster.start_daemon(name)
    cluster.run("scancel", "--user=root")
    cluster.wait_until_idle()
