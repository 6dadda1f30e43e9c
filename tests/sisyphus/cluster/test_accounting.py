"""What left the queue of a real Slurm is found in its accounting (other tests of this folder have none)."""

from __future__ import annotations

import os
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from sisyphus import global_settings as gs
from sisyphus.engines.cluster.books import Books
from sisyphus.engines.cluster.commands import Commands
from sisyphus.engines.cluster.scheduler import End, Request
from sisyphus.engines.cluster.slurm import Slurm

from . import accounted_cluster
from .accounted_cluster import AccountedCluster
from .conftest import Project
from .slurm_cluster import wait_for

pytestmark = pytest.mark.outages


@pytest.fixture(scope="module")
def accounted() -> Iterator[AccountedCluster]:
    """A running Slurm of two nodes, with accounting."""
    reason = accounted_cluster.why_not()
    if reason is not None:
        if os.environ.get("REQUIRE_SLURM"):
            pytest.fail(f"REQUIRE_SLURM is set, but there is {reason}")
        pytest.skip(f"no accounting of a real Slurm: {reason}")
    with tempfile.TemporaryDirectory(prefix="slurm") as folder:
        slurm = AccountedCluster(Path(folder) / "a")
        try:
            slurm.start()
            yield slurm
        finally:
            slurm.stop()


@pytest.fixture
def project(accounted: AccountedCluster, tmp_path: Path) -> Iterator[Project]:
    """A new project."""
    made = Project(tmp_path, accounted)
    yield made
    made.end()
    accounted.run("scancel", "--user=root")
    accounted.wait_until_idle()


def left_the_queue(cluster: AccountedCluster) -> None:
    """Wait until the queue knows no job."""
    wait_for(lambda: not cluster.run("squeue", "-h", "-t", "all"), "jobs to leave the queue", 60)


def test_how_jobs_ended(accounted: AccountedCluster, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name, value in accounted.environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(gs, "BASE_DIR", str(tmp_path))
    slurm = Slurm(Commands())

    def submit(script: str, task_ids: list[int], **rqmt: object) -> str:
        request = Request(["bash", "-c", script], "exp.Job.abc.run", task_ids, dict(rqmt), str(tmp_path))
        (job_id,) = slurm.submit(request)
        return job_id

    limited = submit("sleep 600", [1], time=1)
    cancelled = submit("sleep 600", [1, 2])
    large = submit("exec python3 -c 'x = b\"1\" * (400 * 2**20)'", [1], mem=0.2)
    codes = submit("sleep 3; exit $((SLURM_ARRAY_TASK_ID - 1))", [1001, 1004], mem=0.2)
    states = ["squeue", "-h", "-t", "running", "-o", "%F"]
    wait_for(lambda: {limited, cancelled} <= set(accounted.run(*states).split()), "running jobs", 30)
    accounted.run("scontrol", "update", f"jobid={limited}", "EndTime=now+1")
    accounted.run("scancel", f"{cancelled}_2")
    wait_for(lambda: limited not in accounted.run(*states).split(), "the time limit", 90)
    accounted.run("scancel", f"{cancelled}_1")
    left_the_queue(accounted)

    books = Books(slurm)
    ends = {
        (job_id, task_id): books.of(job_id, task_id)
        for job_id, task_id in ((limited, 1), (cancelled, 1), (cancelled, 2), (large, 1), (codes, 1001))
    }
    assert {key: ended and ended.end for key, ended in ends.items()} == {
        (limited, 1): End.OUT_OF_TIME,
        (cancelled, 1): End.CANCELLED,
        (cancelled, 2): End.CANCELLED,
        (large, 1): End.OUT_OF_MEMORY if accounted.has_memory_limits else End.FAILED,
        (codes, 1001): End.OK,
    }
    failed = books.of(codes, 1004)
    assert failed is not None
    assert (failed.end, failed.exit_code) == (End.FAILED, 3)
    assert 3 <= (failed.elapsed_s or 0) < 60
    assert 0 < (failed.max_rss_gb or 0) < 0.2
    at_its_limit = ends[large, 1]
    assert at_its_limit is not None
    assert (at_its_limit.max_rss_gb or 0) <= 0.21
    assert books.of("999999", 1) is None


def test_a_manager_learns_why_a_task_ended_while_it_was_away(
    project: Project, accounted: AccountedCluster
) -> None:
    project.config('tk.register_output("slow", Work("slow", seconds=600, resume=True).out)')
    first = project.start()
    wait_for(lambda: project.runs("begin"), "a running task", 60)
    first.send_signal(signal.SIGKILL)
    first.communicate()
    job_id = accounted.run("squeue", "-h", "-o", "%F").split()[0]
    accounted.run("scontrol", "update", f"jobid={job_id}", "EndTime=now+1")
    left_the_queue(accounted)
    project.note_calls("sacct")
    second = project.start()
    wait_for(lambda: len(project.runs("begin")) == 2, "a second run", 60)
    limits = accounted.run("squeue", "-h", "-t", "running", "-o", "%l").split()
    project.go()
    printed = project.finish(second)
    assert second.returncode == 0, printed
    assert "ended without a result" in printed
    assert "TIMEOUT" in printed
    assert limits == ["2:00:00"]  # an hour was not enough
    assert len(project.calls("sacct")) == 1


def test_what_was_cancelled_while_no_manager_ran_is_run_again(
    project: Project, accounted: AccountedCluster
) -> None:
    project.config('tk.register_output("gone", Work("gone", seconds=600, resume=True).out)')
    first = project.start()
    wait_for(lambda: project.runs("begin"), "a running task", 60)
    first.send_signal(signal.SIGKILL)
    first.communicate()
    accounted.run("scancel", accounted.run("squeue", "-h", "-o", "%F").split()[0])
    left_the_queue(accounted)
    second = project.start()
    wait_for(lambda: len(project.runs("begin")) == 2, "a second run", 60)
    project.go()
    printed = project.finish(second)
    assert second.returncode == 0, printed
    assert "CANCELLED" in printed
