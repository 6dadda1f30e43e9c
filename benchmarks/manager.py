"""How long the manager takes for jobs that do nothing, and how often it asks the disk.

    python benchmarks/manager.py [--only run finished 10000 growth calls] [--runs 3] [--json PATH]

Processes are measured from their start to their end. With ``UPSTREAM_PYTHON=/path/to/python``, an interpreter
that has upstream Sisyphus, the cases that it can run are run there, too, with all of its waits off. Counting
calls needs ``strace``. ``growth`` makes a million files and removes them: ``TMPDIR=/dev/shm`` leaves the disk
out of it.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

SETTINGS = """
def engine():
    from sisyphus.localengine import LocalEngine
    return LocalEngine(cpus=2)

WAIT_PERIOD_JOB_FS_SYNC = WAIT_PERIOD_BETWEEN_CHECKS = WAIT_PERIOD_CACHE = WAIT_PERIOD_JOB_CLEANUP = 0
WAIT_PERIOD_MTIME_OF_INPUTS = WAIT_PERIOD_FOR_INPUTS_AVAILABLE = 0
"""

SETTINGS_IN_PROCESS = """
def engine():
    from sisyphus.engine import EngineBase

    class InProcess(EngineBase):
        '''Calls the methods of jobs, one after the other, where they are submitted.'''

        waits_for_file_system = False
        poll_interval_s = None

        def submit(self, task):
            for task_id in task.task_ids():
                for arguments in task.arguments(task_id):
                    getattr(task.job, task.name())(*arguments)
                task.job._sis_dir.mark_task("finished", task.name(), task_id)
            self.notify(self.queue_name(task))
            return len(task.task_ids())

        def task_state(self, task, task_id):
            return "unknown"

    return InProcess()
"""

RECIPE = """
from sisyphus import Job, Task

class Step(Job):
    def __init__(self, number, previous=None):
        self.number, self.previous = number, previous
        self.out = self.output_var("out")

    def tasks(self):
        yield Task("run", rqmt={"cpu": 1, "mem": 0.1})

    def run(self):
        self.out.set(self.number)

class Nothing(Step):
    def run(self):
        pass
"""

CHAINS = """
from sisyphus import tk
from recipe.steps import Step, Nothing

def py():
    for chain in range({num_chains}):
        out = None
        for number in range({length}):
            out = {job}(chain * {length} + number, out).out
        tk.register_output(f"out/{{chain}}", out)
"""

TIMED = """
import json, sys, time
from sisyphus.loader import config_manager
from sisyphus import toolkit as tk

began = time.perf_counter()
config_manager.load_configs(["config/bench.py"])
loaded = time.perf_counter()
engine = tk.cached_engine()
for _ in range(int(sys.argv[1])):
    looked_from = time.perf_counter()
    tk.sis_graph.get_jobs_by_status(engine=engine)
looked = time.perf_counter()
print(json.dumps([loaded - began, looked - looked_from]))
"""

FINISH = """
import pathlib
from sisyphus.loader import config_manager
from sisyphus import toolkit as tk

config_manager.load_configs(["config/bench.py"])
for job in tk.sis_graph.jobs():
    folder = pathlib.Path(job._sis_path())
    (folder / "output").mkdir(parents=True)
    (folder / "output" / "out").write_text("0")
    (folder / "finished").touch()
"""


@dataclass(frozen=True)
class Manager:
    """An implementation of Sisyphus."""

    name: str
    python: str
    sis: list[str]
    """How its command line is called."""


@dataclass
class Row:
    """One line of the table."""

    case: str
    manager: str
    values: list[float]
    unit: str
    limit: float | None = None
    """What the project wants to stay below."""

    @property
    def median(self) -> float:
        """Of all runs."""
        return statistics.median(self.values)

    def line(self) -> str:
        """As it is printed."""
        limit = "" if self.limit is None else f"{self.limit:g}"
        numbers = " ".join(f"{number:9.3f}" for number in (self.median, min(self.values), max(self.values)))
        return f"{self.case:58} {self.manager:9} {numbers} {self.unit:6} {limit:>7}"


def main() -> None:
    """Run all cases and print a table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", nargs="+", default=[""], help="the cases to run")
    parser.add_argument("--runs", type=int, default=3, help="runs of each case; the median counts")
    parser.add_argument("--json", type=Path, help="also write the numbers to this file")
    args = parser.parse_args()
    rows = []
    print(f"{'case':58} {'manager':9} {'median':>9} {'min':>9} {'max':>9} {'unit':6} {'limit':>7}")  # noqa: T201
    for name, case in CASES.items():
        if any(word in name for word in args.only):
            for row in case(args.runs):
                rows.append(row)
                print(row.line(), flush=True)  # noqa: T201
    if args.json:
        args.json.write_text(
            json.dumps([{**vars(row), "median": row.median} for row in rows], indent=2) + "\n"
        )


def managers() -> list[Manager]:
    """Ours, and upstream's if it is there."""
    found = [Manager("ours", sys.executable, [sys.executable, "-m", "sisyphus"])]
    upstream = os.environ.get("UPSTREAM_PYTHON")
    if upstream:  # its workers fail if it is started as a module
        found.append(Manager("upstream", upstream, [upstream, str(Path(upstream).with_name("sis"))]))
    return found


# --- whole runs ---


def small_graphs(runs: int) -> Iterator[Row]:
    """Graphs that run from the beginning to the end."""
    for name, num_chains, length, limit in (
        ("run: chain of 5", 1, 5, 1.0),
        ("run: fan-out of 50, 2 cpus", 50, 1, 3.0),
    ):
        for manager in managers():
            seconds = []
            for _ in range(runs):
                with project(num_chains, length) as place:
                    seconds.append(run(manager, place, "-r"))
                    check(place, num_chains)
            yield Row(name, manager.name, seconds, "s", limit if manager.name == "ours" else None)


def finished_graphs(runs: int) -> Iterator[Row]:
    """Graphs of which everything is there."""
    for name, num_chains, length, limit in (
        ("run: finished fan-out of 50", 50, 1, None),
        ("run: finished graph of 1,000", 1000, 1, None),
    ):
        for manager in managers():
            with project(num_chains, length) as place:
                python(manager, place, FINISH)
                seconds = [run(manager, place, "-r") for _ in range(runs)]
            yield Row(name, manager.name, seconds, "s", limit)


def large_graph(runs: int) -> Iterator[Row]:
    """10,000 jobs: loading, the first look, and the whole way to the first question."""
    for finished in (False, True):
        state = "all finished" if finished else "nothing there"
        for manager in managers():
            with project(1000, 10) as place:
                if finished:
                    python(manager, place, FINISH)
                timed = [json.loads(python(manager, place, TIMED, "1")) for _ in range(runs)]
                prompt = [run(manager, place) for _ in range(runs)]
            ours = manager.name == "ours"
            for what, seconds, limit in (
                ("config load", [load for load, _ in timed], 0.5),
                ("first status pass", [look for _, look in timed], 0.3),
                ("`sis manager` to its first prompt", prompt, 1.5),
            ):
                yield Row(
                    f"10,000 jobs, {state}: {what}", manager.name, seconds, "s", limit if ours else None
                )


def growth(runs: int) -> Iterator[Row]:
    """Jobs of no work in the manager's own process: 1,000 to 100,000, wide and deep. One run each."""
    for shape, length in (("chains of 10", 10), ("one chain", None)):
        for num_jobs in (1_000, 10_000, 100_000):
            chain = length or num_jobs
            with project(num_jobs // chain, chain, job="Nothing", settings=SETTINGS_IN_PROCESS) as place:
                wall_s, cpu_s, peak_gib = run_measured(managers()[0], place)
                check(place, num_jobs // chain)
            name = f"in-process: {num_jobs:,} jobs, {shape}"
            yield Row(f"{name}: time per job", "ours", [1000 * wall_s / num_jobs], "ms")
            yield Row(f"{name}: cpu time per job", "ours", [1000 * cpu_s / num_jobs], "ms")
            yield Row(f"{name}: peak memory", "ours", [peak_gib], "GiB", 1.5)


# --- calls to the disk ---


def calls(runs: int) -> Iterator[Row]:
    """File-system calls of a finished graph, by job. The same each time, so counted once."""
    if shutil.which("strace") is None:
        print("calls: strace is not there (Debian: apt-get install strace)", file=sys.stderr)  # noqa: T201
        return
    for manager in managers():
        numbers = {}
        for num_jobs in (100, 1100):
            with project(num_jobs, 1) as place:
                python(manager, place, FINISH)
                for passes in (1, 11):
                    command = [manager.python, "-c", TIMED, str(passes)]
                    numbers[num_jobs, passes] = count_calls(command, place)
                numbers[num_jobs, "manager"] = count_calls([*manager.sis, "manager", CONFIG], place)
        first = (numbers[1100, 1] - numbers[100, 1]) / 1000
        later = (numbers[1100, 11] - numbers[100, 11]) / 1000 - first
        whole = (numbers[1100, "manager"] - numbers[100, "manager"]) / 1000
        yield Row("calls: first pass, by finished job", manager.name, [first], "calls")
        yield Row("calls: later pass, by finished job", manager.name, [later / 10], "calls")
        yield Row("calls: whole `sis manager`, by finished job", manager.name, [whole], "calls")
    for manager in managers():
        numbers = {}
        for num_jobs in (5, 25):
            with project(num_jobs, 1) as place:
                numbers[num_jobs] = count_calls([*manager.sis, "manager", "-r", CONFIG], place)
        by_job = (numbers[25] - numbers[5]) / 20
        yield Row("calls: manager and worker, by job that runs", manager.name, [by_job], "calls")


def count_calls(command: list[str], place: Path) -> int:
    """System calls with a file name, of a process and its children."""
    table = place / "strace.txt"
    subprocess.run(
        ["strace", "-f", "-c", "-e", "trace=file", "-o", str(table), *command],
        cwd=place,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        check=True,
    )
    total = re.search(r"^\s*100\.00\s+\S+\s+(?:\d+\s+)?(\d+)", table.read_text(), re.MULTILINE)
    assert total is not None, table.read_text()
    return int(total[1])


# --- a project ---

CONFIG = "config/bench.py"


@contextmanager
def project(num_chains: int, length: int, job: str = "Step", settings: str = SETTINGS) -> Iterator[Path]:
    """A new project in a temporary directory.

    Args:
        num_chains: how many chains of jobs there are.
        length: jobs in each.
        job: class of the jobs.
        settings: text of the settings file.
    """
    files = {
        "settings.py": settings,
        "recipe/__init__.py": "",
        "recipe/steps.py": RECIPE,
        "config/__init__.py": "",
        CONFIG: CHAINS.format(num_chains=num_chains, length=length, job=job),
    }
    with tempfile.TemporaryDirectory() as directory:
        place = Path(directory)
        for name, text in files.items():
            (place / name).parent.mkdir(exist_ok=True)
            (place / name).write_text(text)
        (place / "work").mkdir()
        yield place


def run(manager: Manager, place: Path, *flags: str) -> float:
    """Seconds from the start to the end of ``sis manager``; nobody answers what it asks."""
    began = time.perf_counter()
    subprocess.run(
        [*manager.sis, "manager", *flags, CONFIG],
        cwd=place,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        check=True,
    )
    return time.perf_counter() - began


def run_measured(manager: Manager, place: Path) -> tuple[float, float, float]:
    """Seconds of wall and cpu time, and peak memory in GiB, of a process that starts no others."""
    began = time.perf_counter()
    process = subprocess.Popen(
        [*manager.sis, "manager", "-r", CONFIG],
        cwd=place,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0, process.returncode
    return time.perf_counter() - began, used.ru_utime + used.ru_stime, used.ru_maxrss / 1024**2


def python(manager: Manager, place: Path, code: str, *args: str) -> str:
    """What a piece of Python prints."""
    done = subprocess.run(
        [manager.python, "-c", code, *args],
        cwd=place,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        check=True,
    )
    return done.stdout


def check(place: Path, num_outputs: int) -> None:
    """Whether all outputs were made: a manager that leaves early is fast."""
    there = len(list((place / "output" / "out").iterdir()))
    assert there == num_outputs, f"{there} of {num_outputs} outputs"


CASES: dict[str, Callable[[int], Iterator[Row]]] = {
    "run": small_graphs,
    "finished": finished_graphs,
    "10000": large_graph,
    "growth": growth,
    "calls": calls,
}

if __name__ == "__main__":
    main()
