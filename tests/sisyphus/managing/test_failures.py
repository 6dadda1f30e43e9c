"""What recipes and settings can decide about failed tasks."""

from __future__ import annotations

import os
import pathlib

import pytest
from sisyphus import Job, Task, gs
from sisyphus.engines.base import EngineBase
from sisyphus.managing.failures import Decisions, failures_of


class Engine(EngineBase):
    waits_for_file_system = False

    def task_state(self, task, task_id):
        return "unknown"


class Fails(Job):
    """Notes what it is asked; does what the tests put into ``decide``."""

    def __init__(self, name):
        self.name = name

    def tasks(self):
        yield Task("run", resume="run", rqmt={"mem": 2, "time": 1})

    def run(self):
        pass

    def on_failure(self, failure):
        self.asked.append(failure)
        self.decide(failure)


class Plain(Job):
    def __init__(self, name):
        self.name = name

    def run(self):
        pass


def fail(job, log="the reason\n", host="node7"):
    """As a worker does."""
    folder = pathlib.Path(job._sis_path())
    (folder / "log.run.1").write_text(log)
    (folder / "usage.run.1").write_text(repr({"host": host, "max": {"rss": 1.5}, "used_time": 0.5}))
    (folder / "error.run.1").touch()


@pytest.fixture
def job(workspace, monkeypatch):
    monkeypatch.setattr(gs, "check_engine_limits", lambda rqmt, task: rqmt)
    job = Fails("x")
    job._sis_setup_directory()
    job._sis_dir.append_submission("run", [1], {"mem": 2, "time": 1})
    fail(job)
    job.asked = []
    job.decide = lambda failure: None
    return job


def test_a_failure_says_what_was(job):
    (failure,) = failures_of(job, Engine())
    assert (failure.job, failure.task.name(), failure.task_id) == (job, "run", 1)
    assert failure.state == "error"
    assert failure.host == "node7"
    assert failure.rqmt["mem"] == 2
    assert failure.usage["max"]["rss"] == 1.5
    assert failure.log() == "the reason"
    assert failure.num_retries == 0


def test_a_recipe_is_asked_once_for_each_failure(job):
    decisions = Decisions(Engine())
    assert not decisions.ask(job)
    assert not decisions.ask(job)
    assert len(job.asked) == 1
    job.decide = lambda failure: failure.retry()
    job.asked[0].retry()
    fail(job)
    assert decisions.ask(job)
    assert len(job.asked) == 2
    assert job.asked[1].num_retries == 1


def test_retries_end(job):
    job.decide = lambda failure: failure.retry(max_retries=2)
    decisions = Decisions(Engine())
    assert decisions.ask(job)
    fail(job)
    assert decisions.ask(job)
    fail(job)
    assert not decisions.ask(job)
    assert os.path.exists(job._sis_path("log.run.1.error.02"))
    assert job._sis_state(Engine()) == "error"


def test_more_memory_on_another_machine(job):
    job.decide = lambda failure: failure.retry(exclude_node=True, rqmt={"mem": 2 * failure.rqmt["mem"]})
    job.update_rqmt("run", {"cpu": 3})
    engine = Engine()
    assert Decisions(engine).ask(job)
    task = job._sis_next_task()
    expected = {"cpu": 3, "mem": 4, "time": 1, "exclude_nodes": ["node7"]}
    assert engine.get_rqmt(task, 1) == expected
    job._sis_dir.append_submission("run", [1], expected)
    job._sis_rqmt_overwrites.clear()  # the next manager does not know what was decided
    job.update_rqmt("run", {"cpu": 3})
    assert engine.get_rqmt(job._sis_next_task(), 1) == expected
    fail(job, host="node8")
    assert Decisions(engine).ask(job)
    assert engine.get_rqmt(job._sis_next_task(), 1)["exclude_nodes"] == ["node7", "node8"]


def test_what_the_engine_calls_the_machines_is_excluded(job):
    task = job._sis_tasks()[0]
    used = {"host": "node7.example.org", "nodes": ["node7", "node8"]}
    pathlib.Path(task.get_process_logging_path(1)).write_text(repr(used))
    job.decide = lambda failure: failure.retry(exclude_node=True)
    assert Decisions(Engine()).ask(job)
    assert Engine().get_rqmt(job._sis_next_task(), 1)["exclude_nodes"] == ["node7", "node8"]


def test_limits_of_the_site_count(job, monkeypatch):
    monkeypatch.setattr(gs, "check_engine_limits", lambda rqmt, task: {**rqmt, "mem": min(rqmt["mem"], 3)})
    job.decide = lambda failure: failure.retry(rqmt={"mem": 100})
    assert Decisions(Engine()).ask(job)
    assert Engine().get_rqmt(job._sis_next_task(), 1)["mem"] == 3


def test_given_up_and_tried_again_with_what_it_had(job):
    os.unlink(job._sis_path("error.run.1"))
    for mem in (2, 4, 8, 16):
        job._sis_dir.append_submission("run", [1], {"mem": mem, "time": 1})
    assert job._sis_state(Engine()) == "retry_error"
    job.decide = lambda failure: failure.retry(max_retries=1)
    assert Decisions(Engine()).ask(job)
    assert job.asked[0].state == "retry_error"
    assert job._sis_state(Engine()) == "interrupted_resumable"
    assert Engine().get_rqmt(job._sis_next_task(), 1, update=False)["mem"] == 16
    for _ in range(4):
        job._sis_dir.append_submission("run", [1], {"mem": 16, "time": 1})
    assert not Decisions(Engine()).ask(job)


def test_settings_are_asked_too_and_may_do_it_by_hand(workspace, monkeypatch):
    job = Plain("y")
    job._sis_setup_directory()
    fail(job)
    decisions = Decisions(Engine())
    assert not decisions.ask(job)

    def by_hand(job):
        for name in ("error.run.1", "log.run.1"):
            os.unlink(job._sis_path(name))

    monkeypatch.setattr(gs, "on_job_failure", by_hand)
    assert decisions.ask(job)
    assert job._sis_state(Engine()) == "runnable"


def test_an_error_in_the_decision_is_told_once(job, caplog):
    def wrong(failure):
        raise KeyError("typo")

    job.decide = wrong
    decisions = Decisions(Engine())
    assert not decisions.ask(job)
    fail(job, log="another\n")
    assert not decisions.ask(job)
    assert caplog.text.count("Fails.on_failure failed: KeyError('typo')") == 1
