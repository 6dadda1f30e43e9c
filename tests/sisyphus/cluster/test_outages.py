"""A Slurm that breaks: nothing is lost, and nothing runs twice."""

from __future__ import annotations

import signal
import time
from collections import Counter

import pytest

from .conftest import Project
from .slurm_cluster import SlurmCluster, wait_for

pytestmark = pytest.mark.outages


def begun(project: Project, number: int) -> None:
    """Wait until so many tasks run."""
    wait_for(lambda: len(project.runs("begin")) >= number, "running tasks", 90)


def each_once(lines: list[str]) -> bool:
    """Whether every task is there, and once."""
    return set(Counter(line.rpartition(" ")[0] for line in lines).values()) == {1}


def test_out_of_time_doubles_the_limit(project: Project, cluster: SlurmCluster) -> None:
    project.config(
        'tk.register_output("slow", Work("slow", seconds=600, resume=True, rqmt={"time": 0.02}).out)'
    )
    manager = project.start()
    begun(project, 1)
    job = cluster.run("squeue", "-h", "-t", "running", "-o", "%F").split()[0]
    cluster.run("scontrol", "update", f"jobid={job}", "EndTime=now+1")
    begun(project, 2)
    limits = cluster.run("squeue", "-h", "-t", "running", "-o", "%l").split()
    project.go()
    printed = project.finish(manager)
    assert manager.returncode == 0, printed
    assert limits == ["3:00"]  # 0.02 h were 2 minutes, rounded up; the double are 3


def test_a_node_that_dies(project: Project, cluster: SlurmCluster) -> None:
    project.config(
        'tk.register_output("two", Work("two", num=2, seconds=600, resume=True, rqmt={"cpu": 8}).out)'
    )
    manager = project.start()
    begun(project, 2)
    cluster.crash(cluster.nodes[1])
    wait_for(lambda: "NODE_FAIL" in cluster.run("squeue", "-h", "-t", "all", "-o", "%T"), "a lost node", 90)
    cluster.start_daemon(cluster.nodes[1])
    begun(project, 3)
    project.go()
    printed = project.finish(manager)
    assert manager.returncode == 0, printed
    assert len(project.runs("begin")) == 3
    assert each_once(project.runs("end"))


def test_a_controller_that_is_away_for_30_s(project: Project, cluster: SlurmCluster) -> None:
    project.config('tk.register_output("away", Work("away", num=4, seconds=600).out)')
    manager = project.start()
    begun(project, 4)
    cluster.stop_daemon("slurmctld")
    time.sleep(5)
    project.go()  # they end while nobody can be asked
    wait_for(lambda: len(project.runs("end")) == 4, "ends", 30)
    time.sleep(25)
    cluster.start_daemon("slurmctld")
    printed = project.finish(manager)
    assert manager.returncode == 0, printed
    assert each_once(project.runs("begin"))


def test_a_submission_whose_reply_is_lost_runs_once(project: Project, cluster: SlurmCluster) -> None:
    project.config(
        """
        first = Work("first", seconds=600)
        tk.register_output("second", Work("second", num=3, after=[first.out]).out)
        """
    )
    manager = project.start()
    begun(project, 1)
    cluster.signal("slurmctld", signal.SIGSTOP)
    project.go()  # the second is submitted to a controller that does not answer
    time.sleep(20)
    cluster.signal("slurmctld", signal.SIGCONT)
    printed = project.finish(manager)
    assert manager.returncode == 0, printed
    assert "It is looked for before it is submitted again" in printed
    assert each_once(project.runs("begin"))


def test_what_somebody_cancels_is_held(project: Project, cluster: SlurmCluster) -> None:
    project.config('tk.register_output("gone", Work("gone", seconds=600, resume=True).out)')
    manager = project.start()
    begun(project, 1)
    cluster.run("scancel", *cluster.run("squeue", "-h", "-o", "%F").split())
    printed = project.finish(manager)
    assert manager.returncode != 0
    assert "cancelled by somebody else" in printed
    assert len(project.runs("begin")) == 1
    project.go()
    code, printed = project.manage()  # a person has started it again
    assert code == 0, printed
    assert len(project.runs("begin")) == 2
