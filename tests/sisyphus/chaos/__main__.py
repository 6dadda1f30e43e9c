"""Disturb projects at random, and see whether anything is lost or done twice: ``make chaos``.

    python tests/sisyphus/chaos --faults 500 --seed 1

Each run disturbs a new project again and again, lets it go, starts the manager once more, and compares what
came out with an undisturbed run. Faults and their order come from the seed; how far the jobs are when they
strike does not, so a seed that found something is worth several tries.
"""

from __future__ import annotations

import argparse
import random
import shutil
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import disks
import faults
import verdict
import workload
from project import Project

SHORT = workload.Size(chains=3, length=4, seconds=0.1, most_faults=20, longest_pause_s=0.35)
LONG = workload.Size(chains=7, length=5, seconds=0.15, most_faults=12, longest_pause_s=0.7)

DOOMED = "process killed before an access to a file"


def main() -> int:
    """Print what was done and what was lost.

    Returns:
        Exit code: 0 if nothing was lost.
    """
    parser = argparse.ArgumentParser(prog="chaos", description=__doc__)
    parser.add_argument("--faults", type=int, default=500, help="how many, at least")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--short", action="store_true", help="small graphs")
    parser.add_argument("--keep", action="store_true", help="keep the folders of runs that lost something")
    options = parser.parse_args()
    base = Path(tempfile.mkdtemp(prefix="chaos_"))
    harness = Harness(base, SHORT if options.short else LONG, options.seed)
    try:
        harness.look_around()
        harness.make_reference()
        while harness.injected.total() < options.faults:
            harness.run_once(keep=options.keep)
    finally:
        if not (options.keep and harness.losses):
            shutil.rmtree(base)
    harness.report()
    return 1 if harness.losses else 0


class Harness:
    """Runs, counts, compares.

    Args:
        base: an empty folder for everything.
        size: of the graphs.
        seed: of all choices.
    """

    def __init__(self, base: Path, size: workload.Size, seed: int) -> None:
        self.base, self.size, self.seed = base, size, seed
        self.random = random.Random(seed)
        self.injected: Counter[str] = Counter()
        self.losses: list[str] = []
        self.num_runs = 0
        self.has_small_disks = self.has_read_only = False
        self.expected: verdict.Outputs = {}
        self._began = time.monotonic()

    def look_around(self) -> None:
        self.has_small_disks = disks.can_mount()
        self.has_read_only = disks.can_freeze_folders(self.base)

    def make_reference(self) -> None:
        """What comes out when nobody disturbs."""
        project = self._new_project("reference", fork_server=True)
        if project.start().wait() != 0:
            raise SystemExit(f"the undisturbed run failed:\n{project.log.read_text()}")
        self.expected = verdict.outputs_of(project)
        problems = [*verdict.violations(project), *verdict.half_written(project)]
        if problems:
            raise SystemExit(f"the undisturbed run is not in order: {problems}")

    def _new_project(self, name: str, *, fork_server: bool) -> Project:
        journal = self.base / f"{name}.journal"
        path = self.base / name
        workload.write(path, journal, self.size, fork_server=fork_server)
        return Project(path, journal, self.random.randrange(1 << 30))

    def run_once(self, *, keep: bool) -> None:
        """One project, from its first manager to the comparison."""
        self.num_runs += 1
        name = f"run{self.num_runs}"
        disk = None
        if self.has_small_disks and self.random.random() < 0.5:
            disk = disks.SmallDisk(self.base / name, megabytes=12)
        project = self._new_project(name, fork_server=self.random.random() < 0.5)
        scene = faults.Scene(project, self.random, disk)
        try:
            self._disturb(scene)
            self._let_go(scene)
        finally:
            project.kill_everything()
            if disk is not None and not (keep and scene.problems):
                disk.close()
        self.injected[DOOMED] += project.count("doomed")
        self.losses += [f"run {self.num_runs}: {problem}" for problem in scene.problems]
        for problem in scene.problems:
            print(f"run {self.num_runs}: {problem}", flush=True)
        if not (keep and scene.problems):
            shutil.rmtree(project.path, ignore_errors=True)
            for file in self.base.glob(f"{name}.journal*"):
                file.unlink()

    def _disturb(self, scene: faults.Scene) -> None:
        project = scene.project
        names = list(faults.ALL)
        weights = [weight for _, weight in faults.ALL.values()]
        num_faults = 0
        while num_faults < self.size.most_faults:
            if not project.manager_runs():
                if project.manager is not None and project.manager.returncode == 0:
                    return  # all is computed
                doom = "0.3 300" if self.random.random() < 0.5 else "0 1"
                project.manager = project.start(doom=doom, workers_doom="0.15 60")
            time.sleep(self.random.uniform(0.02, self.size.longest_pause_s))
            if not project.manager_runs():
                continue
            name = self.random.choices(names, weights)[0]
            if faults.ALL[name][0](scene):
                self.injected[name] += 1
                num_faults += 1

    def _let_go(self, scene: faults.Scene) -> None:
        """End the faults, start the manager once more, and compare."""
        project = scene.project
        if self.random.random() < 0.5:
            project.kill_everything()
        else:  # the last manager finds running tasks, some of which are doomed, some frozen
            faults.thaw_what_cannot_resume(scene)
            if project.manager_runs():
                faults.kill_manager(scene)
        code = self._last_start(scene)
        if code != 0 and scene.project.count(
            "doomed"
        ):  # a doomed task that cannot resume: a person starts again
            project.kill_everything()
            code = self._last_start(scene)
        if code != 0:
            scene.problems.append(f"the last manager ended with {code}:\n{_end_of(project.log)}")
        scene.problems += verdict.violations(project)
        scene.problems += verdict.differences(self.expected, verdict.outputs_of(project))
        scene.problems += verdict.half_written(project)
        before = project.count("begin")
        if project.start().wait(timeout=120) != 0 or project.count("begin") != before:
            scene.problems.append("started once more, the manager had something to do")

    def _last_start(self, scene: faults.Scene) -> int:
        manager = scene.project.manager = scene.project.start()
        deadline = time.monotonic() + 120
        while manager.poll() is None and time.monotonic() < deadline:
            time.sleep(0.05)
        if manager.poll() is None:
            scene.problems.append(f"the last manager does not end:\n{_end_of(scene.project.log)}")
            manager.kill()
        return manager.wait()

    def report(self) -> None:
        for name, count in sorted(self.injected.items(), key=lambda item: -item[1]):
            print(f"{count:6d}  {name}")
        if not self.has_small_disks:
            print("     -  disk full: not here, this user may not mount a small disk")
        if not self.has_read_only:
            print("     -  job folder read-only: not here, this user may not make a folder immutable")
        seconds = time.monotonic() - self._began
        print(
            f"{self.injected.total()} faults injected, {self.num_runs} runs, {len(self.losses)} losses, "
            f"seed {self.seed}, {seconds:.0f} s"
        )


def _end_of(log: Path, num_lines: int = 40) -> str:
    return "\n".join(log.read_text().splitlines()[-num_lines:])


if __name__ == "__main__":
    sys.exit(main())
