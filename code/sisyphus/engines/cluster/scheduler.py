"""What an adapter of a scheduler has to offer: submit, look, look back, cancel. No threads, no memory."""

from __future__ import annotations

import hashlib
import re
import shlex
from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from sisyphus import global_settings as gs
from sisyphus.engines.base import Requirements
from sisyphus.engines.cluster.commands import CommandFailed, Commands, Unreachable
from sisyphus.errors import DeferSubmission, RefusedError, SisyphusError

OFFSET_VARIABLE = "SIS_TASK_ID_OFFSET"
"""In the environment of a worker: what is added to the scheduler's number of an array element."""

_OFFSET_MARK = "+"


class Phase(StrEnum):
    """How far an array element is, in words that are the same for all schedulers."""

    QUEUED = "queued"
    FAULTY = "faulty"
    """In the queue, but it could not be started, and the scheduler does not try again."""
    RUNNING = "running"
    ENDED = "ended"


class End(StrEnum):
    """How an array element ended."""

    OK = "ok"
    FAILED = "failed"
    OUT_OF_MEMORY = "out of memory"
    OUT_OF_TIME = "out of time"
    NODE_LOST = "node lost"
    PREEMPTED = "preempted"
    CANCELLED = "cancelled"


@dataclass(frozen=True)
class Entry:
    """One array element, as the scheduler sees it."""

    job_id: str
    task_id: int
    name: str
    """That it was submitted under."""
    phase: Phase
    end: End | None = None
    """If it ended."""
    said: str = ""
    """The scheduler's own words: state and reason."""
    node: str = ""
    is_suspended: bool = False
    """It has a place, but is stopped for others."""
    is_stuck: bool = False
    """It waits for what time alone does not bring."""


@dataclass(frozen=True)
class Ended:
    """How an array element ended, as the scheduler's books say."""

    end: End
    said: str
    """In the scheduler's own words."""
    exit_code: int | None = None
    max_rss_gb: float | None = None
    """The most memory that it was seen to have; what is used between two looks of the scheduler is missed."""
    elapsed_s: float | None = None

    def __str__(self) -> str:
        facts = [self.said]
        if self.exit_code is not None:
            facts.append(f"exit code {self.exit_code}")
        if self.max_rss_gb is not None:
            facts.append(f"at most {self.max_rss_gb:.2f} GB")
        if self.elapsed_s is not None:
            facts.append(f"after {self.elapsed_s:.0f} s")
        return ", ".join(facts)


@dataclass(frozen=True)
class Request:
    """What is to be run: one command, once for each task id."""

    call: Sequence[str]
    name: str
    task_ids: Sequence[int]
    rqmt: Requirements
    log_dir: str
    """For what the scheduler itself has to say."""


class SubmissionLost(SisyphusError):
    """The scheduler did not answer in time: it may have taken the submission or not."""


class Scheduler(ABC):
    """An adapter: translates to the commands of one scheduler and back.

    Args:
        commands: how programs are run.
    """

    name: str
    no_answer: re.Pattern[str]
    """What its programs say when it does not answer."""
    limits: re.Pattern[str]
    """What its programs say when it takes no more for now."""
    task_id_variable: str
    """In the environment of a worker: the number of its array element."""
    environment_prefix: str | tuple[str, ...]
    """How the variables begin that say what an allocation has."""
    books_lag_s: float = 0.0
    """So long after it left the queue, a job that the books do not know may still be entered there."""

    def __init__(self, commands: Commands) -> None:
        self._commands = commands

    @abstractmethod
    def submit(self, request: Request) -> dict[str, list[int]]:
        """Submit, as few arrays as possible.

        Returns:
            Task ids by the scheduler's job id.

        Raises:
            DeferSubmission: a limit is reached; it may be tried again later.
            RefusedError: it will never be taken as it is.
            SubmissionLost: nobody knows whether it was taken.
        """

    @abstractmethod
    def snapshot(self) -> list[Entry]:
        """All elements of this user and this project that the scheduler knows, ended ones if it still does.

        Raises:
            Unreachable: it does not answer.
        """

    @abstractmethod
    def history(self, job_id: str) -> dict[int, Ended]:
        """How the elements of a job ended, by task id; empty where the scheduler keeps no books.

        Raises:
            Unreachable: it does not answer.
        """

    @abstractmethod
    def cancel(self, entries: Collection[Entry]) -> None:
        """Stop elements that are queued or running.

        Raises:
            Unreachable: it does not answer.
            CommandFailed: it refuses.
        """

    @abstractmethod
    def is_there(self) -> bool:
        """Whether the scheduler answers at all; quick also where it does not."""

    def tend(self, entries: Collection[Entry]) -> None:
        """Do what a manager has to do about what is in the queue, after each look at it; here: nothing.

        Raises:
            Unreachable: it does not answer.
            CommandFailed: it refuses.
        """
        return None

    def nodes(self) -> list[str]:
        """In a worker: names of the hosts that its job has; empty where the scheduler does not say."""
        return []

    def log_of(self, log_dir: str, entry_name: str, job_id: str, task_id: int) -> str:
        """The file for what the scheduler says of one element."""
        number = task_id - offset_of(entry_name)
        return f"{log_dir}/{entry_name}.{job_id}.{number}"

    def _ask(self, argv: Sequence[str]) -> str:
        """Run a program that changes nothing if it is lost; see ``Commands.run``."""
        try:
            return self._commands.run(argv)
        except CommandFailed as error:
            if self.no_answer.search(error.text):
                raise Unreachable(str(error)) from error
            raise

    def _send(self, argv: Sequence[str], stdin: str) -> str:
        """Run a program that submits; see :meth:`submit`."""
        try:
            return self._commands.run(argv, stdin)
        except Unreachable as error:
            raise SubmissionLost(str(error)) from error
        except CommandFailed as error:
            if self.no_answer.search(error.text):
                raise SubmissionLost(str(error)) from error
            if self.limits.search(error.text):
                raise DeferSubmission(str(error)) from error
            raise RefusedError(
                f"{self.name} refuses the task: {error}. It was asked with: {shlex.join(argv)}"
            ) from error


def offset_name(name: str, offset: int) -> str:
    """The name of an array whose numbers are smaller than the task ids by an offset."""
    return f"{name}{_OFFSET_MARK}{offset}" if offset else name


def offset_of(name: str) -> int:
    """See ``offset_name``."""
    digits = name.rpartition(_OFFSET_MARK)[2]
    return int(digits) if _OFFSET_MARK in name and digits.isdecimal() else 0


def without_offset(name: str) -> str:
    """See ``offset_name``."""
    return name.rpartition(_OFFSET_MARK)[0] if offset_of(name) else name


def tagged(name: str) -> str:
    """A name that says which project a task is of, for schedulers whose queue does not show folders."""
    return f"{name}{_tag()}"


def untagged(name: str) -> str | None:
    """See ``tagged``; None: of another project, or none of ours."""
    return name.removesuffix(_tag()) if name.endswith(_tag()) else None


def _tag() -> str:
    return "." + hashlib.sha256(gs.BASE_DIR.encode()).hexdigest()[:8]


def in_arrays(task_ids: Sequence[int], largest: int) -> dict[int, list[int]]:
    """Task ids by offset, so that no number of an array is above ``largest``, and none has more elements."""
    arrays: dict[int, list[int]] = {}
    for task_id in sorted(task_ids):
        arrays.setdefault((task_id - 1) // largest * largest, []).append(task_id)
    return arrays


def ranges(numbers: Sequence[int]) -> str:
    """Numbers as schedulers take them: ``1-3,7``."""
    parts: list[list[int]] = []
    for number in sorted(numbers):
        if parts and number == parts[-1][1] + 1:
            parts[-1][1] = number
        else:
            parts.append([number, number])
    return ",".join(str(first) if first == last else f"{first}-{last}" for first, last in parts)


def argument_list(rqmt: Mapping[str, object], key: str) -> list[str]:
    """Further arguments that a task asks for: a list, or text that is split at blanks."""
    value = rqmt.get(key, ())
    return value.split() if isinstance(value, str) else [str(each) for each in value]  # type: ignore[attr-defined]


def in_runs(numbers: Sequence[int]) -> list[tuple[int, int]]:
    """First and last of each run of numbers without a gap."""
    parts = [part.partition("-") for part in ranges(numbers).split(",") if part]
    return [(int(first), int(last or first)) for first, _, last in parts]
