"""How long it takes to import, to make 10,000 jobs, and to look at them when all are finished.

usage: python benchmarks/graph.py        (in a temporary directory; cpu seconds of this process)
"""

from __future__ import annotations

import os
import tempfile
import time
from pathlib import Path

NUM_JOBS = 10_000


def main() -> None:
    """Print one line for each measurement."""
    os.environ["SIS_GLOBAL_SETTINGS_FILE"] = ""
    with tempfile.TemporaryDirectory() as directory:
        os.chdir(directory)
        measure()


def measure() -> None:
    """Make a chain of jobs, mark all as finished, and look at them."""
    began = time.process_time()
    from sisyphus import Job, tk

    began = _print("import", began)

    class Step(Job):
        def __init__(self, number: int, previous: tk.Path | None) -> None:
            self.previous = previous
            self.out = self.output_path("out")

    Step.__module__ = "benchmark"
    job = Step(0, None)
    for number in range(1, NUM_JOBS):
        job = Step(number, job.out)
    tk.register_output("last", job.out)
    began = _print("create", began)
    tk.sis_graph.get_jobs_by_status()
    began = _print("states, nothing set up", began)
    for job in tk.sis_graph.jobs():
        Path(job._sis_path()).mkdir(parents=True)
        Path(job._sis_path("finished")).touch()
    began = time.process_time()
    for text in ("states, all finished, first look", "states, all finished, second look"):
        assert len(tk.sis_graph.get_jobs_by_status()["finished"]) == NUM_JOBS
        began = _print(text, began)


def _print(text: str, began: float) -> float:
    print(f"{text}: {time.process_time() - began:.3f} s")  # noqa: T201
    return time.process_time()


if __name__ == "__main__":
    main()
