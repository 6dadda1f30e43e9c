"""The Grid Engine adapter against a real Grid Engine: the same day of a user as on Slurm."""

from __future__ import annotations

import os
import signal
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from sisyphus import global_settings as gs
from sisyphus.engines.cluster.commands import Commands, Unreachable
from sisyphus.engines.cluster.grid_engine import GridEngine
from sisyphus.engines.cluster.scheduler import End, Entry, Phase, Request
from sisyphus.errors import DeferSubmission, RefusedError

from . import grid_cluster
from .conftest import WAITS, Project
from .grid_cluster import GridCluster
from .slurm_cluster import wait_for

GRID_SETTINGS = (
    """
    import os

    from sisyphus.engine import EngineSelector
    from sisyphus.localengine import LocalEngine
    from sisyphus.son_of_grid_engine import SonOfGridEngine

    def engine():
        grid = SonOfGridEngine(default_rqmt={"cpu": 1, "mem": 2, "time": 1}, poll_interval=1)
        return EngineSelector({"short": LocalEngine(cpus=2), "long": grid}, default_engine="long")

    DEFAULT_ENVIRONMENT_KEEP |= {"NSLOTS"}
    DEFAULT_ENVIRONMENT_SET |= {"HOME": os.path.abspath("home")}  # Grid Engine sets that of the user
"""
    + WAITS
)


@pytest.fixture(scope="session")
def grid() -> Iterator[GridCluster]:
    """A running Grid Engine of one node."""
    reason = grid_cluster.why_not()
    if reason is not None:
        if os.environ.get("REQUIRE_GRID_ENGINE"):
            pytest.fail(f"REQUIRE_GRID_ENGINE is set, but there is {reason}")
        pytest.skip(f"no real Grid Engine: {reason}")
    with tempfile.TemporaryDirectory(prefix="grid") as folder:
        made = GridCluster(Path(folder) / "g")
        try:
            made.start()
            yield made
        finally:
            made.stop()


@pytest.fixture
def project(grid: GridCluster, tmp_path: Path) -> Iterator[Project]:
    """A new project."""
    made = Project(tmp_path, grid, GRID_SETTINGS)
    yield made
    made.end()
    grid.clear()


class Adapter:
    """The adapter alone, and a shell for what it runs."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.engine = GridEngine(Commands())

    def submit(self, script: str, task_ids: list[int], name: str = "exp.Job.abc.run", **rqmt: object) -> str:
        """Returns the job id."""
        request = Request(["bash", "-c", script], name, task_ids, dict(rqmt), str(self.folder))
        (job_id,) = self.engine.submit(request)
        return job_id

    def entries(self, job_id: str) -> list[Entry]:
        return [entry for entry in self.engine.snapshot() if entry.job_id == job_id]

    def ends(self, job_id: str, number: int) -> dict[int, str]:
        """What the books say, once they know so many ids."""
        wait_for(lambda: len(self.engine.history(job_id)) == number, f"{job_id} in the books", 30)
        return {task_id: ended.end for task_id, ended in self.engine.history(job_id).items()}


@pytest.fixture
def adapter(grid: GridCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Adapter]:
    for name, value in grid.environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(gs, "BASE_DIR", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    yield Adapter(tmp_path)
    grid.clear()


def test_an_array_of_12(project: Project) -> None:
    project.note_calls("qsub", "qstat", "qacct")
    project.config('tk.register_output("many", Work("many", num=12).out)')
    code, printed = project.manage()
    assert code == 0, printed
    assert project.output("many") == " ".join(["0"] * 12)
    ends = [line.split()[1] for line in project.runs("end")]
    assert Counter(ends) == Counter({str(index): 1 for index in range(12)})
    assert len(project.calls("qsub")) == 1
    assert not project.calls("qacct")


def test_a_task_that_fails_shows_why(project: Project) -> None:
    project.config('tk.register_output("fails", Work("fails").out)')
    code, printed = project.manage()
    assert code != 0
    assert "ValueError: this task fails" in printed


def test_what_grid_engine_refuses_is_said_at_once(project: Project) -> None:
    project.config('tk.register_output("huge", Work("huge", rqmt={"gpu": 1}).out)')
    code, printed = project.manage()
    assert code != 0
    assert 'unknown resource "gpu"' in printed


def test_cpus_are_slots_of_one_node(project: Project) -> None:
    project.config('tk.register_output("two", Show("two", ["NSLOTS"], rqmt={"cpu": 2}).out)')
    code, printed = project.manage()
    assert code == 0, printed
    assert project.seen("two") == [{"NSLOTS": "2"}]


def test_several_nodes_are_slots_of_their_environment(project: Project) -> None:
    variables = ["NSLOTS", "NHOSTS", "PE_HOSTFILE"]
    project.config(f'tk.register_output("two", Show("two", {variables}, rqmt={{"multi_node_slots": 2}}).out)')
    code, printed = project.manage()
    assert code == 0, printed
    (seen,) = project.seen("two")
    assert (seen["NSLOTS"], seen["NHOSTS"]) == ("2", "1")  # the only node there is
    assert seen["PE_HOSTFILE"]


@pytest.mark.outages
def test_more_memory_after_it_ran_out(project: Project) -> None:
    project.config('tk.register_output("large", Work("large", mib=1500, rqmt={"mem": 1.5}, resume=True).out)')
    code, printed = project.manage()
    assert code == 0, printed
    assert project.output("large") == str(1500 * 2**20)
    assert len(project.runs("begin")) == 2


@pytest.mark.outages
def test_more_time_after_it_ran_out(project: Project) -> None:
    project.config(
        'tk.register_output("slow", Work("slow", seconds=600, rqmt={"time": 8 / 3600}, resume=True).out)'
    )
    manager = project.start()
    wait_for(lambda: len(project.runs("begin")) == 2, "a second run", 60)
    project.go()
    printed = project.finish(manager)
    assert manager.returncode == 0, printed
    assert "enforced h_rt" in printed


def test_a_manager_that_is_killed_finds_its_tasks_again(project: Project) -> None:
    project.config('tk.register_output("long", Work("long", num=3, seconds=60).out)')
    first = project.start()
    wait_for(lambda: len(project.runs("begin")) == 3, "running tasks", 60)
    first.send_signal(signal.SIGKILL)
    first.communicate()
    project.note_calls("qsub", "qstat")
    second = project.start()
    wait_for(lambda: len(project.calls("qstat")) >= 3, "looks at the queue", 30)
    project.go()
    printed = project.finish(second)
    assert second.returncode == 0, printed
    assert not project.calls("qsub")
    assert len(project.runs("begin")) == 3


@pytest.mark.outages
def test_a_master_that_is_away(project: Project, grid: GridCluster) -> None:
    project.config(
        """
        first = Work("first", num=2, seconds=600)
        tk.register_output("second", Work("second", num=2, after=[first.out]).out)
        """
    )
    manager = project.start()
    wait_for(lambda: len(project.runs("begin")) == 2, "running tasks", 60)
    grid.processes["sge_qmaster"].kill()
    grid.processes["sge_qmaster"].wait()
    project.go()
    wait_for(lambda: len(project.runs("end")) == 2, "ends", 30)
    time.sleep(15)
    grid.start_daemon("sge_qmaster")
    printed = project.finish(manager, 180)
    assert manager.returncode == 0, printed
    assert "answers again" in printed
    assert len(project.runs("begin")) == 4


def test_books_say_how_tasks_ended(adapter: Adapter) -> None:
    fast = adapter.submit("exit $((SGE_TASK_ID - 1))", [1, 2], name="fast")
    late = adapter.submit("sleep 100", [1], name="late", time=2 / 3600)
    grow = "python3 -c 'import os, time; os.fork(); os.fork(); x = bytearray(2**27); time.sleep(60)'"
    large = adapter.submit(grow, [1], name="large", mem=0.4)
    assert adapter.ends(fast, 2) == {1: End.OK, 2: End.FAILED}
    assert adapter.engine.history(fast)[2].exit_code == 1
    assert adapter.ends(late, 1) == {1: End.OUT_OF_TIME}
    assert adapter.ends(large, 1) == {1: End.OUT_OF_MEMORY}
    assert (adapter.engine.history(late)[1].elapsed_s or 0) >= 2
    assert 0.1 < (adapter.engine.history(large)[1].max_rss_gb or 0) < 0.4


def test_some_ids_of_an_array_are_cancelled(adapter: Adapter) -> None:
    job_id = adapter.submit("sleep 100", [1, 2, 3, 4])
    wait_for(lambda: {e.phase for e in adapter.entries(job_id)} == {Phase.RUNNING}, "running tasks", 30)
    ended = Entry("999999", 1, "exp.Job.abc.run", Phase.RUNNING)  # gone before it was asked for
    chosen = [entry for entry in adapter.entries(job_id) if entry.task_id != 3]
    adapter.engine.cancel([*chosen, ended])
    wait_for(lambda: [e.task_id for e in adapter.entries(job_id)] == [3], "one that is left", 30)


def test_what_cannot_be_started_is_held_and_says_why(project: Project) -> None:
    project.config(
        'tk.register_output("faulty", Work("faulty", rqmt={"qsub_args": ["-S", "/no/such/shell"]}).out)'
    )
    manager = project.start()
    printed = project.finish(manager)
    assert manager.returncode != 0
    assert printed.count("could not be started, tried again") == 3
    assert "cannot be started" in printed
    assert "/no/such/shell" in printed
    assert "queue_error" in printed


def test_looking_at_the_queue_lets_nothing_go(adapter: Adapter) -> None:
    adapter.folder = adapter.folder / "missing" / "folder"
    job_id = adapter.submit("true", [1])
    wait_for(lambda: [e.said for e in adapter.entries(job_id)] == ["Eqw"], "a task in error", 30)
    adapter.entries(job_id)
    assert [(e.said, e.phase) for e in adapter.entries(job_id)] == [("Eqw", Phase.QUEUED)]
    engine = GridEngine(Commands(), clears_errors=False)
    engine.tend(engine.snapshot())
    assert [entry.phase for entry in engine.snapshot()] == [Phase.FAULTY]


def test_the_queue_shows_this_project_only(adapter: Adapter, monkeypatch: pytest.MonkeyPatch) -> None:
    job_id = adapter.submit("sleep 100", [1])
    assert adapter.entries(job_id)
    monkeypatch.setattr(gs, "BASE_DIR", "/another/checkout")
    assert not adapter.entries(job_id)


def test_nodes_are_excluded(adapter: Adapter, grid: GridCluster) -> None:
    elsewhere = adapter.submit("sleep 100", [1], exclude_nodes=[grid.host, "broken"])
    here = adapter.submit("sleep 100", [1], exclude_nodes=["broken"])
    wait_for(lambda: [e.phase for e in adapter.entries(here)] == [Phase.RUNNING], "a running task", 30)
    assert [entry.node for entry in adapter.entries(here)] == [grid.host]
    assert [entry.phase for entry in adapter.entries(elsewhere)] == [Phase.QUEUED]


def test_a_limit_of_jobs_defers_submissions(adapter: Adapter, grid: GridCluster) -> None:
    grid.limit_jobs(1)
    try:
        adapter.submit("sleep 100", [1])
        with pytest.raises(DeferSubmission, match="only 1 jobs are allowed"):
            adapter.submit("sleep 100", [1])
    finally:
        grid.limit_jobs(0)


def test_refusals_and_a_master_that_is_not_there(adapter: Adapter, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(RefusedError, match="unknown queue"):
        adapter.submit("true", [1], qsub_args=["-q", "none"])
    assert adapter.engine.is_there()
    monkeypatch.setenv("SGE_QMASTER_PORT", "1")
    assert not adapter.engine.is_there()
    with pytest.raises(Unreachable):
        adapter.engine.snapshot()
