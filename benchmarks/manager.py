"""How long the manager takes for jobs that do nothing: seconds from the start of the process to its end.

    python benchmarks/manager.py [--runs 3] [--json PATH]

A chain shows the delay between two jobs, a fan-out how well the cpus are used, a finished graph the cost of
looking. Upstream needs 243 s for this chain and 183 s for this fan-out with its default waits on a 2-core
machine, 11.2 s and 38.6 s with all waits off.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

SETTINGS = """
def engine():
    from sisyphus.localengine import LocalEngine
    return LocalEngine(cpu=2)
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
"""

CHAIN = """
from sisyphus import tk
from recipe.steps import Step

def py():
    out = None
    for number in range(5):
        out = Step(number, out).out
    tk.register_output("last", out)
"""

FAN_OUT = """
from sisyphus import tk
from recipe.steps import Step

def py():
    for number in range(50):
        tk.register_output(f"out/{number}", Step(number).out)
"""

WIDE = """
from sisyphus import tk
from recipe.steps import Step

def py():
    for number in range(1000):
        tk.register_output(f"out/{number}", Step(number).out)
"""


def main() -> None:
    """Run all cases and print a table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runs", type=int, default=3, help="runs of each case; the median counts")
    parser.add_argument("--json", type=Path, help="also write the numbers to this file")
    args = parser.parse_args()
    cases = {
        "chain of 5": (lambda project: None, CHAIN, 3.0),
        "fan-out of 50, 2 cpus": (lambda project: None, FAN_OUT, 15.0),
        "finished fan-out of 50": (run, FAN_OUT, 2.0),
        "finished graph of 1000": (pretend_finished, WIDE, 10.0),
    }
    results = {}
    print(f"{'case':24} {'median s':>9} {'min s':>7} {'max s':>7} {'limit s':>8}")  # noqa: T201
    for name, (prepare, config, limit_s) in cases.items():
        seconds = [measure(prepare, config) for _ in range(args.runs)]
        results[name] = {"seconds": seconds, "median_s": statistics.median(seconds), "limit_s": limit_s}
        print(  # noqa: T201
            f"{name:24} {statistics.median(seconds):9.2f} {min(seconds):7.2f} {max(seconds):7.2f} "
            f"{limit_s:8.1f}"
        )
    if args.json:
        args.json.write_text(json.dumps(results, indent=2) + "\n")


def measure(prepare, config: str) -> float:  # type: ignore[no-untyped-def]
    """Seconds of one run in a fresh project."""
    with tempfile.TemporaryDirectory() as directory:
        project = Path(directory)
        write(project / "settings.py", SETTINGS)
        write(project / "recipe" / "__init__.py", "")
        write(project / "recipe" / "steps.py", RECIPE)
        write(project / "config" / "__init__.py", "")
        write(project / "config" / "bench.py", config)
        (project / "work").mkdir()
        prepare(project)
        return run(project)


def run(project: Path) -> float:
    """Seconds from the start to the end of ``sis manager -r``."""
    began = time.perf_counter()
    subprocess.run(
        [sys.executable, "-m", "sisyphus", "manager", "-r", "config/bench.py"],
        cwd=project,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        check=True,
    )
    return time.perf_counter() - began


def pretend_finished(project: Path) -> None:
    """Make the folders of all jobs as if they had run."""
    code = (
        "import pathlib\n"
        "from sisyphus.loader import config_manager\n"
        "from sisyphus.toolkit import sis_graph\n"
        "config_manager.load_configs(['config/bench.py'])\n"
        "for job in sis_graph.jobs():\n"
        "    job._sis_setup_directory()\n"
        "    job.out.set(0)\n"
        "    pathlib.Path(job._sis_path('finished')).touch()\n"
    )
    subprocess.run([sys.executable, "-c", code], cwd=project, check=True, stderr=subprocess.DEVNULL)


def write(path: Path, text: str) -> None:
    """Write a file, with the directories above it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


if __name__ == "__main__":
    main()
