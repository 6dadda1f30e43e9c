"""States of jobs and tasks, and the pure rules that find them.

What a folder and an engine say goes in, a state comes out; nothing here touches a disk or asks an engine.
"""

from __future__ import annotations

from collections.abc import Collection
from enum import StrEnum
from typing import NamedTuple


class State(StrEnum):
    """States as texts; equal to the plain texts that settings and listings use."""

    INPUT_PATH = "input_path"
    INPUT_MISSING = "input_missing"
    WAITING = "waiting"
    RUNNABLE = "runnable"
    HOLD = "hold"
    QUEUE = "queue"
    RUNNING = "running"
    QUEUE_ERROR = "queue_error"
    UNKNOWN = "unknown"
    INTERRUPTED_RESUMABLE = "interrupted_resumable"
    INTERRUPTED_NOT_RESUMABLE = "interrupted_not_resumable"
    RETRY_ERROR = "retry_error"
    ERROR = "error"
    FINISHED = "finished"


_PRECEDENCE = (
    State.ERROR,
    State.QUEUE_ERROR,
    State.INTERRUPTED_RESUMABLE,
    State.INTERRUPTED_NOT_RESUMABLE,
    State.RUNNABLE,
    State.QUEUE,
    State.RUNNING,
    State.RETRY_ERROR,
    State.FINISHED,
)
"""A task with several ids is in the first of these states that one of its ids is in."""

_TAKEN_AS_REPORTED = frozenset({State.QUEUE, State.RUNNING, State.QUEUE_ERROR})


class TaskEvidence(NamedTuple):
    """What is known about one id of a task.

    A tuple rather than a dataclass: importing those would be a large part of the start of a worker.
    """

    finished: bool
    """The finished marker is there."""
    error: bool
    """The error marker is there."""
    engine: str = State.UNKNOWN
    """What the engine reports."""
    has_log: bool = False
    """The task was started once: its log file is there."""
    began: bool = True
    """Its process got as far as to the task's own code: its usage file is there."""
    silence_s: float = float("inf")
    """Seconds since log or usage file were last written."""
    patience_s: float = 0.0
    """A task that the engine does not know, but that wrote more recently than this, still runs."""
    num_submissions: int = 0
    """Submissions that made no progress."""
    max_submissions: int = 0
    """More submissions than this are not tried."""
    resumable: bool = False
    """The task can go on where it was interrupted."""


def task_id_state(known: TaskEvidence) -> State:
    """Return the state of one id of a task."""
    if known.finished:
        return State.FINISHED
    if known.error:
        return State.ERROR
    if known.engine in _TAKEN_AS_REPORTED:
        return State(known.engine)
    if not known.has_log:
        return State.RUNNABLE
    if known.silence_s < known.patience_s:
        return State.RUNNING
    if known.num_submissions > known.max_submissions:
        return State.RETRY_ERROR
    if not known.began:  # killed while Python started: nothing was lost, also of a task that cannot resume
        return State.RUNNABLE
    return State.INTERRUPTED_RESUMABLE if known.resumable else State.INTERRUPTED_NOT_RESUMABLE


def combined(states: Collection[State]) -> State:
    """Return the state of a task from the states of its ids; ``unknown`` if there are none."""
    if states and all(state is State.FINISHED for state in states):
        return State.FINISHED
    return next((state for state in _PRECEDENCE if state in states), State.UNKNOWN)
