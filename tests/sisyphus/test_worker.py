"""``sis worker`` by hand: what it leaves behind, and what it tells by its exit code."""

from __future__ import annotations

import pathlib
import signal
import subprocess
import sys

import pytest
import sisyphus.global_settings as gs
from sisyphus import worker
from sisyphus.engines.base import EngineBase
from sisyphus.engines.local import LocalEngine

JOBS = """
class Various(Job):
    def __init__(self):
        self.out = self.output_var("out")

    def tasks(self):
        for name in ("good", "bad", "leaves", "hungry", "greedy", "patient", "facts"):
            yield Task(name, resume="again")
        yield Task("greedy_once")
        yield Task("endless", continuable=True)

    def good(self):
        print("good runs in", os.getcwd())

    def again(self):
        print("again")

    def bad(self):
        raise ValueError("the reason")

    def leaves(self):
        sys.exit("no more ideas")

    def hungry(self):
        self.sh("kill -9 $$")

    def greedy(self):
        raise MemoryError("no more")

    greedy_once = greedy

    def patient(self):
        print("ready", flush=True)
        time.sleep(60)

    def facts(self):
        print("worker", tk.running_in_worker(), "manager", tk.running_in_manager())
        print("hosts", gs.active_engine.get_job_node_hostnames() == [os.uname().nodename])
        print("modules", sorted({"torch", "rich", "IPython", "psutil"} & set(sys.modules)))

    def endless(self):
        pass
"""


@pytest.fixture
def folder(project):
    """The directory of a job that is set up, relative to the project."""
    project.config('tk.register_output("x", Various().out)', recipe=JOBS)
    project.sis("manager", "config/exp.py", stdin="s\nn\n")
    return str(project.job_dir("Various").relative_to(project.path))


def test_a_finished_task_can_be_run_again_by_hand(project, folder):
    assert project.sis("worker", folder, "good").returncode == 0
    assert "good runs in" in project.sis("worker", folder, "good").stdout


def files(project, folder):
    return {path.name for path in (project.path / folder).iterdir()}


def test_success(project, folder):
    done = project.sis("worker", folder, "good")
    assert done.returncode == 0
    assert f"good runs in {(project.path / folder / 'work').resolve()}" in done.stdout
    assert "Job finished successfully" in done.stderr
    assert {"finished.good.1", "usage.good.1"} <= files(project, folder)


def test_failure(project, folder):
    done = project.sis("worker", folder, "bad")
    assert done.returncode == 1
    assert "ValueError: the reason" in done.stderr
    assert "worker.py" not in done.stderr  # the traceback begins in the recipe
    assert "error.bad.1" in files(project, folder)
    assert "finished.bad.1" not in files(project, folder)


def test_memory_kills_are_noted_and_no_error(project, folder):
    done = project.sis("worker", folder, "hungry")
    assert done.returncode == 137
    assert "error.hungry.1" not in files(project, folder)
    assert eval(project.read(f"{folder}/usage.hungry.1"))["out_of_memory"] is True


def test_memory_errors_interrupt_what_can_go_on(project, folder):
    done = project.sis("worker", folder, "greedy")
    assert done.returncode == 137
    assert "Out of memory, the next run gets more: no more" in done.stderr
    assert "error.greedy.1" not in files(project, folder)
    assert eval(project.read(f"{folder}/usage.greedy.1"))["out_of_memory"] is True
    assert project.sis("worker", folder, "greedy_once").returncode == 1
    assert "error.greedy_once.1" in files(project, folder)


def test_a_marker_that_cannot_be_made_is_told(tmp_path, caplog, monkeypatch):
    def full(self):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(pathlib.Path, "touch", full)
    worker._mark_error(tmp_path / "error.run.1")
    assert "the task counts as interrupted: [Errno 28] No space left on device" in caplog.text


def test_output_goes_to_the_log_if_asked(project, folder):
    done = project.sis("worker", folder, "good", "1", "--redirect_output")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    log = project.read(f"{folder}/log.good.1")
    assert "good runs in" in log
    assert "RETRY OR CONTINUE TASK" not in log
    project.sis("worker", folder, "bad", "--redirect_output")
    project.sis("worker", folder, "bad", "--redirect_output")
    assert project.read(f"{folder}/log.bad.1").count("RETRY OR CONTINUE TASK") == 1
    assert project.read(f"{folder}/log.bad.1").count("ValueError: the reason") == 2


def start(project, folder, *args):
    """A worker on the task that takes a minute; returns when the task runs."""
    process = subprocess.Popen(
        [sys.executable, "-m", "sisyphus", "worker", folder, "patient", *args],
        cwd=project.path,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env=project.environment(),
    )
    while process.stdout.readline() != "ready\n":
        assert process.poll() is None
    return process


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_signals_interrupt_without_a_marker(project, folder, number, code):
    process = start(project, folder)
    process.send_signal(number)
    process.communicate(timeout=10)
    assert process.returncode == code
    assert not {"error.patient.1", "finished.patient.1"} & files(project, folder)


def test_a_task_that_runs_already_is_not_run_again(project, folder):
    process = start(project, folder)
    second = project.sis("worker", folder, "patient")
    process.kill()
    process.communicate()
    assert second.returncode == 3
    assert f"already running as process {process.pid}" in second.stderr


def test_restarts_call_the_method_for_restarts(project, folder):
    assert project.sis("worker", folder, "good", "--force_resume").stdout == "again\n"
    (project.path / folder / "log.patient.1").write_text("it began\n")
    (project.path / folder / "usage.patient.1").write_text("{'pid': 1, 'host': 'elsewhere'}")
    assert project.sis("worker", folder, "patient", "1").stdout == "again\n"


def test_what_tasks_can_ask(project, folder):
    out = project.sis("worker", folder, "facts").stdout
    assert "worker True manager False" in out
    assert "hosts True" in out
    assert "modules []" in out  # a worker imports no more than its task


def test_leaving_the_program_is_no_way_to_end_a_task(project, folder):
    done = project.sis("worker", folder, "leaves")
    assert done.returncode == 1
    assert 'sys.exit("no more ideas")' in done.stderr  # the line of the recipe
    assert "The task called sys.exit(no more ideas). To end it early, return; to fail, raise." in done.stderr
    assert "error.leaves.1" in files(project, folder)


def test_continuable_tasks_are_never_finished(project, folder):
    assert project.sis("worker", folder, "endless").returncode == 0
    assert "finished.endless.1" not in files(project, folder)


def test_no_job_is_no_marker(project):
    done = project.sis("worker", "work/nothing", "run")
    assert done.returncode == 1
    assert done.stderr.endswith("no job is saved in work/nothing: neither job.save nor finished.tar.gz\n")
    assert not (project.path / "work/nothing").exists()


def test_failures_before_the_task_are_marked_too(project, folder):
    project.write("recipe/jobs.py", "import no_such_module")
    done = project.sis("worker", folder, "good")
    assert done.returncode == 1
    assert "no_such_module" in done.stderr
    assert "error.good.1" in files(project, folder)


def test_missing_inputs_fail_at_once_on_one_machine(project):
    project.config('tk.register_output("b", Step("b", Step("a").out).out)')
    assert project.manager().returncode == 0
    project.engine("LocalEngine(cpu=1)", "WAIT_PERIOD_FOR_INPUTS_AVAILABLE = 600")
    folders = sorted((project.path / "work/jobs").glob("Step.*"))
    (user,) = [path for path in folders if list((path / "input").iterdir())]
    (creator,) = [path for path in folders if path != user]
    (creator / "output/number").unlink()
    done = project.sis("worker", str(user.relative_to(project.path)), "run")
    assert done.returncode == 1
    assert f"inputs are missing: {creator / 'output/number'}" in done.stderr


class Remote(EngineBase):
    """An engine on other hosts."""


class FakeInput:
    def __init__(self, path):
        self.path = str(path)

    def get_path(self):
        return self.path


class FakeJob:
    def __init__(self, *paths):
        self._sis_inputs = [FakeInput(path) for path in paths]


def test_tasks_wait_for_the_age_of_inputs_only_where_hosts_share_files(tmp_path, monkeypatch):
    path = tmp_path / "input"
    path.touch()
    slept = []
    monkeypatch.setattr(worker.time, "sleep", slept.append)
    monkeypatch.setattr(gs, "WAIT_PERIOD_MTIME_OF_INPUTS", 60)
    worker._wait_for_inputs(FakeJob(path), LocalEngine())
    assert slept == []
    worker._wait_for_inputs(FakeJob(path), Remote())
    assert len(slept) == 1
    assert 50 < slept[0] <= 60


def test_inputs_that_appear_late_are_waited_for(tmp_path, monkeypatch):
    path = tmp_path / "input"
    monkeypatch.setattr(gs, "WAIT_PERIOD_MTIME_OF_INPUTS", 0)
    monkeypatch.setattr(worker.time, "sleep", lambda seconds: path.touch())
    worker._wait_for_inputs(FakeJob(path), Remote())
    monkeypatch.setattr(gs, "WAIT_PERIOD_FOR_INPUTS_AVAILABLE", 0)
    with pytest.raises(
        AssertionError, match=r"inputs are missing: .*/never\. Was a directory in work removed\?"
    ):
        worker._wait_for_inputs(FakeJob(tmp_path / "never"), Remote())
    monkeypatch.setattr(gs, "TASK_INPUTS_MUST_BE_AVAILABLE", False)
    worker._wait_for_inputs(FakeJob(tmp_path / "never"), Remote())
