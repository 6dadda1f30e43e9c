"""PsijEngine with PSI/J's real executors: for this machine, and for a real Slurm."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from sisyphus.engines.cluster.psij import Psij
from sisyphus.errors import EngineError

from .conftest import WAITS, Project, running_slurm
from .slurm_cluster import SlurmCluster, wait_for

psij = pytest.importorskip("psij", reason="psij-python is not installed: pip install -e '.[psij]'")

PSIJ_SETTINGS = (
    """
    from sisyphus.engine import EngineSelector
    from sisyphus.localengine import LocalEngine
    from sisyphus.psij_engine import PsijEngine

    def engine():
        psij = PsijEngine({{"cpu": 1, "mem": 0.5, "time": 1}}, executor="{executor}", poll_interval=1)
        return EngineSelector({{"short": LocalEngine(cpus=2), "long": psij}}, default_engine="long")

    DEFAULT_ENVIRONMENT_KEEP |= {{"SLURM_CONF", "SLURMD_NODENAME", "SLURM_CPUS_PER_TASK"}}
"""
    + WAITS
)


class ThisMachine:
    """What tasks run on without a scheduler."""

    @property
    def environment(self) -> dict[str, str]:
        return dict(os.environ)


@pytest.fixture
def local(tmp_path: Path) -> Iterator[Project]:
    """A project whose tasks PSI/J starts on this machine."""
    made = Project(tmp_path, ThisMachine(), PSIJ_SETTINGS.format(executor="local"))
    yield made
    made.end()


@pytest.fixture(scope="module")
def cluster() -> Iterator[SlurmCluster]:
    """Its own: PSI/J 0.9.11 cannot read a queue in which a memory kill of another test still stands."""
    with running_slurm() as slurm:
        yield slurm


@pytest.fixture
def on_slurm(cluster: SlurmCluster, tmp_path: Path) -> Iterator[Project]:
    """A project whose tasks PSI/J submits to Slurm."""
    made = Project(tmp_path, cluster, PSIJ_SETTINGS.format(executor="slurm"))
    yield made
    made.end()
    cluster.run("scancel", "--user=root")
    cluster.wait_until_idle()


def test_tasks_run_and_their_failures_are_shown(local: Project) -> None:
    local.config(
        """
        tk.register_output("good", Work("good", num=3).out)
        tk.register_output("fails", Work("fails").out)
        """
    )
    code, printed = local.manage()
    assert code != 0
    assert "ValueError: this task fails" in printed
    assert local.output("good") == "0 0 0"
    assert len(local.runs("end")) == 3


def test_tasks_of_a_dead_manager_are_followed(local: Project) -> None:
    local.config('tk.register_output("long", Work("long", num=2, seconds=60).out)')
    first = local.start()
    wait_for(lambda: len(local.runs("begin")) == 2, "running tasks", 30)
    first.send_signal(signal.SIGKILL)
    first.communicate()
    second = local.start()
    record = local.folder / "work" / ".manager.json"
    wait_for(lambda: json.loads(record.read_text())["pid"] == second.pid, "a second manager", 30)
    time.sleep(3)  # it looks at its jobs, and could submit
    local.go()
    printed = local.finish(second)
    assert second.returncode == 0, printed
    assert len(local.runs("begin")) == 2
    code, printed = local.manage()  # what is noted of jobs that are gone is forgotten
    assert code == 0, printed
    assert not list((local.folder / "work" / ".psij" / "jobs").iterdir())


def test_tasks_on_slurm(on_slurm: Project) -> None:
    on_slurm.config(
        """
        tk.register_output("good", Show("good", ["SLURM_CPUS_PER_TASK"], num=2, rqmt={"cpu": 2}).out)
        tk.register_output("fails", Work("fails").out)
        """
    )
    code, printed = on_slurm.manage()
    assert code != 0
    assert "ValueError: this task fails" in printed
    assert on_slurm.seen("good") == [{"SLURM_CPUS_PER_TASK": "2"}] * 2


def test_what_slurm_refuses_is_said_at_once(on_slurm: Project) -> None:
    on_slurm.config(
        'tk.register_output("none", Work("none", rqmt={"psij_attributes": {"slurm.partition": "none"}}).out)'
    )
    code, printed = on_slurm.manage()
    assert code != 0
    assert "invalid partition" in printed


@pytest.mark.outages
def test_tasks_on_slurm_of_a_dead_manager_are_followed(on_slurm: Project, cluster: SlurmCluster) -> None:
    on_slurm.config('tk.register_output("long", Work("long", num=3, seconds=60, resume=True).out)')
    first = on_slurm.start()
    wait_for(lambda: len(on_slurm.runs("begin")) == 3, "running tasks", 60)
    first.send_signal(signal.SIGKILL)
    first.communicate()
    on_slurm.note_calls("sbatch", "squeue")
    second = on_slurm.start()
    wait_for(lambda: len(on_slurm.calls("squeue")) >= 2, "looks at the queue", 30)
    running = ["squeue", "-h", "-t", "running,completing", "-o", "%F"]
    cluster.run("scancel", cluster.run(*running).split()[0])
    wait_for(lambda: len(cluster.run(*running).split()) == 2, "a task that was cancelled", 30)
    on_slurm.go()
    printed = on_slurm.finish(second)
    assert len(on_slurm.runs("end")) == 2, printed
    assert "cancelled by somebody else" in printed
    assert not on_slurm.calls("sbatch")


def test_an_executor_that_does_not_exist() -> None:
    with pytest.raises(EngineError, match=r"no executor 'pbspro'.* Known: .*slurm"):
        Psij("pbspro").snapshot()


def test_an_executor_whose_library_is_missing() -> None:
    with pytest.raises(EngineError, match=r"no executor 'flux' \(No module named 'flux'\)"):
        Psij("flux").snapshot()


@pytest.mark.outages
def test_a_poll_that_psij_cannot_read_loses_nothing(on_slurm: Project, cluster: SlurmCluster) -> None:
    if not cluster.has_memory_limits:
        pytest.skip("this machine's control groups cannot limit memory")
    on_slurm.config(
        """
        tk.register_output("large", Work("large", mib=400, rqmt={"mem": 0.2}).out)
        tk.register_output("good", Work("good", num=2, seconds=600, after=["large"]).out)
        """
    )
    manager = on_slurm.start()
    wait_for(lambda: len(on_slurm.runs("begin")) == 3, "running tasks", 60)
    states = ["squeue", "-h", "-t", "all", "-o", "%T"]
    wait_for(
        lambda: "OUT_OF_MEMORY" in cluster.run(*states), "a memory kill, which PSI/J 0.9.11 does not know", 60
    )
    time.sleep(5)  # several polls fail
    on_slurm.go()
    wait_for((on_slurm.folder / "output" / "good").exists, "the other tasks", 60)
    manager.terminate()
    assert on_slurm.finish(manager).count("Polling error") == 1
    assert on_slurm.output("good") == "0 0"
