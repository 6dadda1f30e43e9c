"""The Slurm engine against a real Slurm: what a user's day looks like, in seconds."""

from __future__ import annotations

import json
import signal
import time
from collections import Counter

from .conftest import Project
from .slurm_cluster import wait_for


def test_an_array_of_50_on_two_nodes(project: Project) -> None:
    project.config('tk.register_output("many", Work("many", num=50, rqmt={"mem": 0.1}).out)')
    code, printed = project.manage()
    assert code == 0, printed
    assert project.output("many") == " ".join(["0"] * 50)
    ends = [line.split() for line in project.runs("end")]
    assert Counter(index for _, index, _ in ends) == Counter({str(index): 1 for index in range(50)})
    assert {node for *_, node in ends} == set(project.cluster.nodes)


def test_a_task_that_fails_shows_why(project: Project) -> None:
    project.config('tk.register_output("fails", Work("fails").out)')
    code, printed = project.manage()
    assert code != 0
    assert "ValueError: this task fails" in printed


def test_what_slurm_refuses_is_said_at_once(project: Project) -> None:
    project.config('tk.register_output("huge", Work("huge", rqmt={"sbatch_args": ["--partition=none"]}).out)')
    code, printed = project.manage()
    assert code != 0
    assert "invalid partition" in printed


def test_more_memory_after_a_kill(project: Project) -> None:
    project.config('tk.register_output("large", Work("large", mib=400, rqmt={"mem": 0.2}, resume=True).out)')
    code, printed = project.manage()
    assert code == 0, printed
    assert project.output("large") == str(400 * 2**20)
    assert len(project.runs("begin")) > 1


def test_a_manager_that_is_killed_finds_its_tasks_again(project: Project) -> None:
    project.config('tk.register_output("long", Work("long", num=4, seconds=60).out)')
    first = project.start()
    wait_for(lambda: len(project.runs("begin")) == 4, "running tasks", 60)
    first.send_signal(signal.SIGKILL)
    first.communicate()
    second = project.start()
    record = project.folder / "work" / ".manager.json"
    wait_for(lambda: json.loads(record.read_text())["pid"] == second.pid, "a second manager", 30)
    time.sleep(3)  # it looks at the queue, and could submit
    project.go()
    printed = project.finish(second)
    assert second.returncode == 0, printed
    assert len(project.runs("begin")) == 4
