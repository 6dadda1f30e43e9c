"""Tasks that a real Slurm pushes out for others: nothing is lost, and nothing runs twice at a time."""

from __future__ import annotations

import pytest

from .conftest import Project
from .slurm_cluster import PREEMPT_MODES, SlurmCluster, wait_for


def history(project: Project, index: int) -> list[str]:
    """What one task did, in order."""
    lines = (project.folder / "home" / "runs").read_text().splitlines()
    return [line.split()[0] for line in lines if line.split()[2] == str(index)]


def push_out(cluster: SlurmCluster) -> None:
    """Submit what needs one whole node, has more priority, and ends soon."""
    cluster.run("sbatch", "--exclusive", "--nodes=1", "--output=/dev/null", "--wrap=sleep 1")


@pytest.mark.parametrize(
    "mode", [PREEMPT_MODES[0], pytest.param(PREEMPT_MODES[1], marks=pytest.mark.outages)]
)
def test_a_task_that_is_pushed_out_runs_again(project: Project, cluster: SlurmCluster, mode: str) -> None:
    rqmt = {"cpu": 8, "sbatch_args": [f"--partition={mode.lower()}"]}
    project.config(
        f'tk.register_output("two", Work("two", num=2, seconds=600, resume=True, rqmt={rqmt}).out)'
    )
    manager = project.start()
    wait_for(lambda: len(project.runs("begin")) == 2, "running tasks", 60)
    push_out(cluster)
    wait_for(lambda: len(project.runs("begin")) == 3, "another run of the one that was pushed out", 60)
    states = cluster.run("squeue", "-h", "-r", "-t", "all", "-p", mode.lower(), "-o", "%T").split()
    project.go()
    printed = project.finish(manager)
    assert manager.returncode == 0, printed
    assert sorted(states) == ["PREEMPTED", "RUNNING", "RUNNING"]
    both = [history(project, index) for index in range(2)]
    assert sorted(both, key=len) == [
        ["begin", "end", "leave"],
        ["begin", "leave", "begin", "end", "leave"],
    ]


@pytest.mark.outages
def test_to_be_pushed_out_often_is_no_failure(project: Project, cluster: SlurmCluster) -> None:
    rqmt = {"cpu": 8, "sbatch_args": ["--partition=requeue"]}
    project.config(f'tk.register_output("one", Work("one", seconds=600, resume=True, rqmt={rqmt}).out)')
    manager = project.start()
    for number in range(1, 7):  # more than MAX_SUBMIT_RETRIES
        wait_for(lambda at_least=number: len(project.runs("begin")) == at_least, f"run {number}", 60)
        cluster.run("sbatch", "--exclusive", "--nodes=2", "--output=/dev/null", "--wrap=sleep 1")
    wait_for(lambda: len(project.runs("begin")) == 7, "run 7", 60)
    project.go()
    printed = project.finish(manager)
    assert manager.returncode == 0, printed
    assert history(project, 0) == ["begin", "leave"] * 6 + ["begin", "end", "leave"]
