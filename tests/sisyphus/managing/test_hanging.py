"""When a running task counts as hanging."""

from __future__ import annotations

import os
import pathlib

import pytest
from sisyphus import Job, Task, gs
from sisyphus.managing.hanging import HangWatch


class Work(Job):
    def __init__(self, name):
        self.name = name

    def tasks(self):
        yield Task("run", args=[1, 2], parallel=2)

    def run(self, number):
        """Never called here."""


class Engine:
    """All tasks run, and use as much cpu time as is said."""

    waits_for_file_system = False
    cpu_s = 0.0

    def task_state(self, task, task_id):
        return "running"

    def activity(self, task, task_id):
        return self.cpu_s


@pytest.fixture
def watched(workspace, monkeypatch):
    """A job of two ids with logs; a function that lets time pass and looks."""
    monkeypatch.setattr(gs, "TASK_HEARTBEAT_TIMEOUT", 100)
    monkeypatch.setattr(gs, "PLOGGING_UPDATE_FILE_PERIOD", 10)
    job = Work("x")
    job._sis_setup_directory()
    for task_id in (1, 2):
        pathlib.Path(job._sis_path("log.run", task_id)).touch()
    now = [0.0]
    watch = HangWatch(Engine(), lambda: now[0])

    def look(passed_s):
        now[0] += passed_s
        return [(found.task.job, found.task_id) for found in watch.look([job])]

    look.job, look.engine = job, watch._engine
    look(0)
    return look


def write(job, task_id, second):
    os.utime(job._sis_path("log.run", task_id), (second, second))


def test_silence_is_told_once_until_it_moves_again(watched):
    assert [watched(20) for _ in range(4)] == [[], [], [], []]
    assert watched(20) == [(watched.job, 1), (watched.job, 2)]
    assert watched(20) == []
    write(watched.job, 1, 5)
    assert [watched(20) for _ in range(6)] == [*5 * [[]], [(watched.job, 1)]]


def test_logs_and_cpu_time_are_signs_of_life(watched):
    for second in range(10):
        write(watched.job, 1, second)
        found = watched(20)
        assert (watched.job, 1) not in found
    for _ in range(10):
        watched.engine.cpu_s += 0.01
        assert watched(20) == []


def test_a_machine_that_slept_makes_no_task_look_dead(watched):
    assert watched(100_000) == []
    assert watched(20) == []


def test_looks_are_rare(watched):
    write(watched.job, 1, 5)
    watched(0.1)
    assert watched(0.1) == []


def test_it_can_be_switched_off(watched, monkeypatch):
    monkeypatch.setattr(gs, "TASK_HEARTBEAT_TIMEOUT", None)
    assert [watched(50) for _ in range(5)] == [[]] * 5


def test_never_before_three_writes_of_the_usage_file(watched, monkeypatch):
    monkeypatch.setattr(gs, "PLOGGING_UPDATE_FILE_PERIOD", 100)
    assert [watched(60) for _ in range(4)] == [[]] * 4
    assert watched(60) != []
