"""Task: ids, arguments, requirements, files, state."""

from __future__ import annotations

import os
import pathlib
import time

import pytest
from sisyphus import Job, Task, gs
from sisyphus.job_dir import task_entry

pytestmark = pytest.mark.usefixtures("workspace")


class Engine:
    """Reports what it is told, and notes what it was asked."""

    knows_ends = True

    def __init__(self, **reports):
        self.reports = reports
        self.asked = []

    def task_state(self, task, task_id):
        self.asked.append(task_id)
        return self.reports.get(f"id{task_id}", "unknown")

    def has_ended(self, task, task_id):
        return self.knows_ends

    def last_run(self, task, task_id):
        return self.reports.get("last_run")


class Step(Job):
    """``options`` are those of its only task."""

    def __init__(self, name, options=None):
        self.name = name
        self.options = options or {}

    def tasks(self):
        yield Task("run", **self.options)

    def run(self):
        pass

    def again(self):
        pass


class Counts(Step):
    fraction = 0.0

    def completed_fraction(self):
        return self.fraction


class Nothing(Job):
    def __init__(self):
        pass

    def tasks(self):
        return iter(())


def task_of(**options):
    job = Step("x", options)
    job._sis_setup_directory()
    return job._sis_tasks()[0]


def mark(task, kind, task_id, age_s=0.0):
    path = pathlib.Path(task.path(kind, task_id))
    path.touch()
    os.utime(path, (time.time() - age_s,) * 2)


def submit(task, ids, **rqmt):
    with open(task.path(gs.ENGINE_SUBMIT), "a") as file:
        file.write(f"{(ids, rqmt)!r}\n")


def test_defaults():
    task = Task("run")
    assert task.name() == "run"
    assert task.task_ids() == [1]
    assert task.rqmt() == {}
    assert task.arguments(1) == [[]]
    assert not task.resumeable()
    assert not task.continuable
    assert task.method_name(resume=True) == "run"
    assert Task("run", mini_task=True).rqmt() == {"engine": "short"}


def test_requirements_are_copied():
    rqmt = {"mem": 1}
    task = Task("run", rqmt=rqmt)
    task.rqmt()["mem"] = 2
    rqmt["mem"] = 3
    assert task.rqmt() == {"mem": 1}


def test_one_id_for_each_element():
    task = Task("run", args=[[1, 2], "ab", (3,)])
    assert task.task_ids() == [1, 2, 3]
    assert [task.arguments(each) for each in task.task_ids()] == [[[1, 2]], [["ab"]], [[3]]]


def test_ids_share_the_elements_the_first_get_more():
    task = Task("run", args=range(8), parallel=3)
    assert [task.arguments(each) for each in task.task_ids()] == [
        [[0], [1], [2]],
        [[3], [4], [5]],
        [[6], [7]],
    ]
    assert Task("run", args=[1], parallel=2).arguments(2) == []


def test_unknown_ids_are_refused():
    with pytest.raises(ValueError, match="task 'run' has no id 3: its ids are 1 to 2"):
        Task("run", args=[1, 2]).arguments(3)


def test_restarts_call_the_method_for_restarts():
    task = Task("run", resume="again")
    assert task.resumeable()
    assert task.method_name(resume=False) == "run"
    assert task.method_name(resume=True) == "again"


@pytest.mark.parametrize("options", [{"resume": "missing"}])
def test_methods_that_the_job_lacks(options, caplog):
    with pytest.raises(AttributeError, match="Step has no method 'missing', which its task 'run' names"):
        Step("x", options)._sis_tasks()
    assert "no method 'missing'" in caplog.text


def test_a_job_without_tasks():
    with pytest.raises(AssertionError, match=r"has no tasks: Nothing.tasks\(\) must yield at least one Task"):
        Nothing()._sis_tasks()


def test_paths():
    task = task_of()
    folder = task.job._sis_path()
    assert task.path("log", 1) == f"{folder}/log.run.1"
    assert task.path(gs.ENGINE_SUBMIT) == f"{folder}/submit_log.run"
    assert task.path(gs.JOB_WORK_DIR) == f"{folder}/work"
    assert task.path() == folder
    assert task_entry("finished", "run", 2) == "finished.run.2"


def test_the_command_for_workers(monkeypatch):
    task = task_of()
    monkeypatch.setattr(gs, "SIS_COMMAND", ["python", "sis"])
    assert task.get_worker_call(3) == ["python", "sis", "worker", task.job._sis_path(), "run", "3"]
    monkeypatch.setattr(gs, "SIS_COMMAND", "'a python' -m sisyphus")
    assert task.get_worker_call() == ["a python", "-m", "sisyphus", "worker", task.job._sis_path(), "run"]


def test_the_wrapper_of_the_job_is_that_of_its_creation(monkeypatch):
    monkeypatch.setattr(gs, "worker_wrapper", lambda job, task_name, call: ["container", task_name, *call])
    task = task_of()
    monkeypatch.undo()
    assert task.get_worker_call(1)[:2] == ["container", "run"]


def test_states_of_ids():
    task = task_of(args=[1, 2, 3, 4])
    engine = Engine(id3="running")
    mark(task, "finished", 1)
    mark(task, "error", 2)
    states = [task.state(engine, each) for each in task.task_ids()]
    assert states == ["finished", "error", "running", "runnable"]
    assert engine.asked == [3, 4]  # markers say enough
    assert task.state(engine) == "error"
    assert (task.finished(1), task.finished(2), task.finished()) == (True, False, False)
    assert (task.error(1), task.error(2), task.error()) == (False, True, True)
    assert not task.started()
    mark(task, "log", 4)
    assert task.started(4)
    assert task.started()


def test_markers_count_at_once():
    task = task_of()
    mark(task, "finished", 1)
    assert task.finished()
    assert task.state(None) == "finished"


def test_a_marker_that_appears_while_the_engine_is_asked():
    task = task_of()
    mark(task, "log", 1)

    class Late(Engine):
        def task_state(self, task, task_id):
            mark(task, "finished", 1)
            return "unknown"

    assert task.state(Late()) == "finished"


def test_interruptions():
    task = task_of(resume="again")
    mark(task, "log", 1)
    assert task.state(Engine()) == "runnable"  # killed before it called a method of the job
    mark(task, "usage", 1, age_s=1000)
    assert task.state(Engine()) == "interrupted_resumable"
    engine = Engine()
    engine.knows_ends = False
    assert task.state(engine) == "running"  # its last words are young
    mark(task, "log", 1, age_s=1000)
    assert task.state(engine) == "interrupted_resumable"
    mark(task, "usage", 1)
    assert task.state(engine) == "running"


def test_submissions_are_counted_since_the_last_progress():
    task = task_of(resume="again")
    mark(task, "log", 1)
    mark(task, "usage", 1)
    for _ in range(gs.MAX_SUBMIT_RETRIES):
        submit(task, [1], completed_fraction=None)
    assert task.state(Engine()) == "interrupted_resumable"
    submit(task, [1], completed_fraction=None)
    assert task.state(Engine()) == "retry_error"
    submit(task, [1], completed_fraction=0.5)
    assert task.state(Engine()) == "interrupted_resumable"


def test_submissions_to_a_queue_that_was_lost_do_not_count():
    task = task_of(resume="again")
    mark(task, "log", 1)
    mark(task, "usage", 1)
    for _ in range(10):  # ten managers were stopped before it was its turn
        submit(task, [1], after_run="")
    submit(task, [1], after_run="first")
    assert task.state(Engine(last_run="second")) == "interrupted_resumable"
    for run in ("second", "third"):
        submit(task, [1], after_run=run)
    assert task.state(Engine(last_run="third")) == "interrupted_resumable"
    assert task.state(Engine(last_run="fourth")) == "retry_error"


def test_progress_of_the_last_run_counts():
    job = Counts("x", {"resume": "again"})
    job._sis_setup_directory()
    task = job._sis_tasks()[0]
    mark(task, "log", 1)
    mark(task, "usage", 1)
    for _ in range(gs.MAX_SUBMIT_RETRIES + 1):
        submit(task, [1], completed_fraction=0.5)
    job.fraction = 0.5
    assert task.state(Engine()) == "retry_error"
    job.fraction = 0.6
    assert task.state(Engine()) == "interrupted_resumable"
    job.fraction = "half"  # a recipe that is wrong does not stop the manager
    assert task.state(Engine()) == "retry_error"


def test_damaged_lines_of_the_submit_log_are_left_out(caplog):
    task = task_of()
    pathlib.Path(task.path(gs.ENGINE_SUBMIT)).write_text("([1], {'mem': 1})\n([1], {'me\n\n([2], {})\n")
    assert task.job._sis_dir.submissions("run") == [([1], {"mem": 1}), ([2], {})]
    assert "Damaged line in the submit log" in caplog.text


def test_tries_put_failures_aside(workspace):
    task = task_of(tries=3)
    for number in (1, 2):
        mark(task, "error", 1)
        pathlib.Path(task.path("log", 1)).write_text(f"failure {number}")
        assert task.state(Engine()) == "runnable"
        aside = workspace / f"{task.path('log', 1)}.error.0{number}"
        assert aside.read_text() == f"failure {number}"
    mark(task, "log", 1)
    mark(task, "error", 1)
    assert task.state(Engine()) == "error"
    assert task.error()


def test_a_failure_without_a_log_uses_up_a_try():
    task = task_of(tries=2)
    mark(task, "error", 1)
    assert not task.error()
    mark(task, "error", 1)
    assert task.error()


def test_a_try_that_was_half_put_aside_is_put_aside_once():
    task = task_of(tries=2)
    mark(task, "error", 1)
    time.sleep(0.02)  # the clock of a file system goes in steps
    pathlib.Path(f"{task.path('log', 1)}.error.01").touch()  # here the manager was killed
    assert not task.error()
    assert not task.error(1)
    mark(task, "error", 1)
    assert task.error()


def test_a_try_puts_the_usage_aside_too():
    task = task_of(tries=2)
    for kind in ("log", "usage", "error"):
        mark(task, kind, 1)
    assert task.state(Engine()) == "runnable"
    assert pathlib.Path(f"{task.path('usage', 1)}.error.01").exists()


def test_a_line_cut_short_does_not_damage_the_next():
    task = task_of()
    pathlib.Path(task.path(gs.ENGINE_SUBMIT)).write_text("([1], {'mem': 1})\n([1], {'me")
    task.job._sis_dir.append_submission("run", [2], {"mem": 2})
    assert task.job._sis_dir.submissions("run") == [([1], {"mem": 1}), ([2], {"mem": 2})]


@pytest.mark.parametrize(
    ("usage", "updated"),
    [
        ({"max": {"rss": 1.0}, "used_time": 1.0}, {}),
        ({"max": {"rss": 1.0}, "used_time": 1.95}, {"time": 4.0}),
        ({"max": {"rss": 3.8}, "used_time": 1.0}, {"mem": 8.0}),
        ({"max": {"rss": 1.0}, "used_time": 1.0, "out_of_memory": True}, {"mem": 8.0}),
        ({"max": {"rss": 1.0}, "used_time": 1.0, "out_of_time": True}, {"time": 4.0}),
        ({"max": {"rss": 3.9}, "used_time": 2.0}, {"mem": 8.0, "time": 4.0}),
    ],
)
def test_what_ran_out_is_doubled(usage, updated):
    rqmt = {"mem": "4G", "time": "2:00:00", "cpu": 3}
    assert gs.update_engine_rqmt(rqmt, usage) == {**rqmt, **updated}
    assert Task("run")._update_rqmt(rqmt, usage) == {**rqmt, **updated}
    assert Task("run", update_rqmt=lambda rqmt, usage: {"x": 1})._update_rqmt(rqmt, usage) == {"x": 1}
