"""What the engine makes of a scheduler's answers, with a scheduler that is a list."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from types import SimpleNamespace

import pytest
from sisyphus import global_settings as gs
from sisyphus.engines.cluster import engine as engine_module
from sisyphus.engines.cluster.commands import Commands, Unreachable
from sisyphus.engines.cluster.engine import ClusterEngine
from sisyphus.engines.cluster.scheduler import End, Ended, Entry, Phase, Request, Scheduler, SubmissionLost
from sisyphus.errors import DeferSubmission, RefusedError


class Listed(Scheduler):
    """Takes one task id a job; ``errors`` are raised before the next ones are taken."""

    name = "list"
    task_id_variable = "LIST_ID"
    environment_prefix = "LIST_"

    def __init__(self) -> None:
        super().__init__(Commands())
        self.entries: list[Entry] = []
        self.errors: list[Exception | None] = []
        self.is_up = True

    def submit(self, request: Request) -> dict[str, list[int]]:
        submitted = {}
        for task_id in request.task_ids:
            error = self.errors.pop(0) if self.errors else None
            if error is not None:
                raise error
            job_id = str(len(self.entries) + 1)
            self.entries.append(Entry(job_id, task_id, request.name, Phase.QUEUED))
            submitted[job_id] = [task_id]
        return submitted

    def snapshot(self) -> list[Entry]:
        if not self.is_up:
            raise Unreachable("the list is away")
        return list(self.entries)

    def history(self, job_id: str) -> dict[int, Ended]:
        return {}

    def cancel(self, entries: Collection[Entry]) -> None:
        self.entries = [entry for entry in self.entries if entry not in entries]

    def is_there(self) -> bool:
        return self.is_up

    def numbers(self) -> list[int]:
        return [entry.task_id for entry in self.entries]


@pytest.fixture
def scheduler() -> Listed:
    return Listed()


@pytest.fixture
def engine(scheduler: Listed, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> ClusterEngine:
    monkeypatch.setattr(gs, "BASE_DIR", str(tmp_path))
    monkeypatch.setattr(engine_module, "BETWEEN_SUBMISSIONS_S", 0.0)
    monkeypatch.setattr(engine_module, "DEFERRED_S", 0.0)
    monkeypatch.setattr(engine_module, "LOST_S", 0.0)
    made = ClusterEngine(scheduler, {"cpu": 1})
    made._watch.look()
    return made


def submit(engine: ClusterEngine, *task_ids: int) -> object:
    return engine.submit_call(["sis", "worker"], "work/j/engine", {}, "Job.x.run", "run", list(task_ids))[1]


def test_submissions_are_noted_by_job(engine: ClusterEngine) -> None:
    assert submit(engine, 1, 2) == [("1", [1]), ("2", [2])]


def test_a_limit_in_the_middle_submits_nothing_twice(engine: ClusterEngine, scheduler: Listed) -> None:
    scheduler.errors = [None, DeferSubmission("no more")]
    with pytest.raises(DeferSubmission):
        submit(engine, 1, 2, 3)
    assert submit(engine, 1, 2, 3) == [("1", [1]), ("2", [2]), ("3", [3])]
    assert scheduler.numbers() == [1, 2, 3]


def test_a_lost_reply_submits_nothing_twice(engine: ClusterEngine, scheduler: Listed) -> None:
    scheduler.errors = [None, SubmissionLost("no reply")]
    with pytest.raises(DeferSubmission):
        submit(engine, 1, 2)
    scheduler.is_up = False
    with pytest.raises(DeferSubmission):
        submit(engine, 1, 2)
    scheduler.is_up = True
    submit(engine, 1, 2)
    assert scheduler.numbers() == [1, 2]


def test_what_a_dead_manager_submitted_is_taken_over(scheduler: Listed, engine: ClusterEngine) -> None:
    submit(engine, 1)
    later = ClusterEngine(scheduler, {})
    assert submit(later, 1, 2) == [("1", [1]), ("2", [2])]


def test_what_has_ended_is_no_reason_not_to_submit(scheduler: Listed, engine: ClusterEngine) -> None:
    scheduler.entries = [Entry("1", 1, "Job.x.run", Phase.ENDED, End.PREEMPTED)]
    engine._watch.look()
    assert submit(engine, 1) == [("2", [1])]


def after_an_end(
    engine: ClusterEngine, scheduler: Listed, history: list[dict[str, object]], end: End
) -> dict[str, object]:
    """What is noted of the next submission, if the last one ended like this."""
    task = SimpleNamespace(
        job=SimpleNamespace(
            _sis_id=lambda: "Job.x",
            _sis_dir=SimpleNamespace(submissions=lambda name: [([1], info) for info in history]),
        ),
        name=lambda: "run",
    )
    after_run = engine.last_run(task, 1)  # type: ignore[arg-type]
    job_id = str(len(history) + 1)
    scheduler.entries.append(Entry(job_id, 1, "Job.x.run", Phase.ENDED, end))
    engine._watch.look()
    return {"engine_info": [(job_id, [1])], "after_run": after_run}


@pytest.mark.parametrize(("end", "is_sure"), [(End.PREEMPTED, True), (End.NODE_LOST, False)])
def test_what_a_lost_node_ran_may_still_run(
    engine: ClusterEngine, scheduler: Listed, end: End, is_sure: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gs, "WAIT_PERIOD_JOB_FS_SYNC", 0)
    submissions = [([1], {"engine_info": submit(engine, 1)})]
    job = SimpleNamespace(
        _sis_id=lambda: "Job.x", _sis_dir=SimpleNamespace(submissions=lambda name: submissions)
    )
    task = SimpleNamespace(
        job=job, name=lambda: "run", path=lambda kind: "engine", started=lambda number: True
    )
    assert not engine.has_ended(task, 1)  # type: ignore[arg-type]
    scheduler.entries = [Entry("1", 1, "Job.x.run", Phase.ENDED, end)]
    engine._watch.look()
    assert engine.task_state(task, 1) == gs.STATE_UNKNOWN  # type: ignore[arg-type]
    assert engine.has_ended(task, 1) == is_sure  # type: ignore[arg-type]


def test_what_is_taken_away_is_no_try(engine: ClusterEngine, scheduler: Listed) -> None:
    history: list[dict[str, object]] = []
    for end in (End.PREEMPTED, End.NODE_LOST, End.OUT_OF_TIME, End.PREEMPTED, End.FAILED, End.FAILED):
        history.append(after_an_end(engine, scheduler, history, end))
    assert [info["after_run"] for info in history] == ["0", "0", "0", "1", "1", "2"]


def test_what_is_always_taken_away_is_given_up(engine: ClusterEngine, scheduler: Listed) -> None:
    history: list[dict[str, object]] = []
    for _ in range(15):
        history.append(after_an_end(engine, scheduler, history, End.PREEMPTED))
    assert history[10]["after_run"] == "0"
    assert history[14]["after_run"] == "4"


def test_what_the_scheduler_stops_does_not_hang(engine: ClusterEngine, scheduler: Listed) -> None:
    task = SimpleNamespace(job=SimpleNamespace(_sis_id=lambda: "Job.x"), name=lambda: "run")
    for is_suspended in (False, True):
        scheduler.entries = [Entry("1", 1, "Job.x.run", Phase.RUNNING, is_suspended=is_suspended)]
        engine._watch.look()
        signs = {engine.activity(task, 1) for _ in range(2)}  # type: ignore[arg-type]
        assert len(signs) == (2 if is_suspended else 1)


def test_a_refusal_is_passed_on(engine: ClusterEngine, scheduler: Listed) -> None:
    scheduler.errors = [RefusedError("no such partition")]
    with pytest.raises(RefusedError, match="no such partition"):
        submit(engine, 1)
