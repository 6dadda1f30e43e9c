"""What a scheduler's queue looks like: asked now and then in a thread, and remembered through outages."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from sisyphus.engines.cluster import events
from sisyphus.engines.cluster.commands import CommandFailed, Unreachable
from sisyphus.engines.cluster.scheduler import Entry, Scheduler, without_offset

HINTS_EVERY_S = 0.5
"""One listing of a folder."""
SOON_S = 3.0
"""After something was submitted or hinted at, the queue is asked again, but no sooner than this."""
QUIET_AFTER_S = 300.0
"""Without any change for so long, the queue is asked three times less often."""
BACK_OFF_S = (5.0, 10.0, 20.0, 40.0, 60.0)
"""Between attempts to reach a scheduler that does not answer."""
SETTLING_S = 30.0
"""After an outage, jobs that ended meanwhile may be shown wrongly, or not at all, for so long."""


@dataclass(frozen=True)
class Picture:
    """The queue at one time."""

    taken_at: float = float("-inf")
    """When asking for it began; by ``time.monotonic``."""
    by_task: dict[tuple[str, int], list[Entry]] = field(default_factory=dict)
    """By name, as it was submitted, and task id."""

    @classmethod
    def of(cls, entries: Iterable[Entry], taken_at: float) -> Picture:
        """Sort entries by task."""
        by_task: dict[tuple[str, int], list[Entry]] = {}
        for entry in entries:
            by_task.setdefault((without_offset(entry.name), entry.task_id), []).append(entry)
        return cls(taken_at, by_task)

    def entries(self, name: str, task_id: int) -> list[Entry]:
        """All submissions of a task id that the scheduler knows."""
        return self.by_task.get((name, task_id), [])

    def entry(self, name: str, task_id: int, job_id: str | None) -> Entry | None:
        """One submission of a task id, if the scheduler knows it."""
        return next((entry for entry in self.entries(name, task_id) if entry.job_id == job_id), None)


class QueueWatch:
    """Looks at the queue.

    Args:
        scheduler: what is asked.
        interval_s: seconds between two looks.
        on_change: called from the thread, with names as they were submitted, or queue names of hints.
    """

    def __init__(
        self,
        scheduler: Scheduler,
        *,
        interval_s: float,
        on_change: Callable[[set[str], set[str]], None],
    ) -> None:
        self._scheduler = scheduler
        self._interval_s = interval_s
        self._on_change = on_change
        self._asking = threading.Lock()
        self._wanted = threading.Event()
        self._stopped = threading.Event()
        self._threads: list[threading.Thread] = []
        self._changed_at = time.monotonic()
        self._failed_since: float | None = None
        self._num_failures = 0
        self._back_since = float("-inf")
        self.picture = Picture()
        """The last that was to be had."""

    @property
    def is_reliable(self) -> bool:
        """Whether what is not in the picture is really gone."""
        settled = time.monotonic() - self._back_since >= SETTLING_S
        return self._failed_since is None and settled and self.picture.taken_at > float("-inf")

    def start(self) -> None:
        """Look now, and go on in threads."""
        self.look()
        self._stopped.clear()
        self._threads = [
            threading.Thread(target=target, name=name, daemon=True)
            for target, name in ((self._keep_looking, "queue watch"), (self._take_hints, "event watch"))
        ]
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """End the threads."""
        self._stopped.set()
        self._wanted.set()
        for thread in self._threads:
            thread.join(timeout=5.0)
        self._threads = []

    def look_soon(self) -> None:
        """Something was submitted, cancelled, or hinted at."""
        self._wanted.set()

    def picture_since(self, moment: float) -> Picture:
        """A picture that was taken after a moment (by ``time.monotonic``); the scheduler is asked if need be.

        Raises:
            Unreachable: it does not answer.
        """
        if self.picture.taken_at < moment:
            self.look()
        if self.picture.taken_at < moment:
            raise Unreachable(f"{self._scheduler.name} does not answer")
        return self.picture

    def look(self) -> None:
        """Ask the scheduler; if it does not answer, the last picture stays."""
        with self._asking:
            before, began = self.picture, time.monotonic()
            try:
                if self._failed_since is not None and not self._scheduler.is_there():
                    raise Unreachable(f"{self._scheduler.name} does not answer")
                self.picture = Picture.of(self._scheduler.snapshot(), began)
            except (Unreachable, CommandFailed) as error:
                self._note_failure(error)
                return
            self._note_answer()
        changed = {
            name
            for name, task_id in before.by_task.keys() | self.picture.by_task.keys()
            if before.entries(name, task_id) != self.picture.entries(name, task_id)
        }
        if changed:
            self._changed_at = time.monotonic()
            self._on_change(changed, set())

    def _note_failure(self, error: Exception) -> None:
        if self._failed_since is None:
            self._failed_since = time.monotonic()
            logging.warning(
                "%s. Tasks keep their states, running ones go on, and finished ones are seen by their files; "
                "nothing is submitted until it answers again",
                error,
            )
        self._num_failures += 1

    def _note_answer(self) -> None:
        if self._failed_since is not None:
            away_s = time.monotonic() - self._failed_since
            logging.info("%s answers again, after %.0f s", self._scheduler.name, away_s)
            self._back_since = time.monotonic()
        self._failed_since, self._num_failures = None, 0

    def _pause_s(self) -> float:
        if self._num_failures:
            return BACK_OFF_S[min(self._num_failures, len(BACK_OFF_S)) - 1]
        is_quiet = time.monotonic() - self._changed_at > QUIET_AFTER_S
        return self._interval_s * (3 if is_quiet else 1)

    def _keep_looking(self) -> None:
        while not self._stopped.is_set():
            hinted = self._wanted.wait(self._pause_s())
            self._wanted.clear()
            if hinted:
                self._stopped.wait(
                    max(0.0, self.picture.taken_at + min(SOON_S, self._interval_s) - time.monotonic())
                )
            if not self._stopped.is_set():
                self.look()
                self._tend()

    def _tend(self) -> None:
        """In a manager only: others must not act on what they see."""
        try:
            self._scheduler.tend([entry for its in self.picture.by_task.values() for entry in its])
        except (Unreachable, CommandFailed) as error:
            logging.debug("%s", error)

    def _take_hints(self) -> None:
        while not self._stopped.wait(HINTS_EVERY_S):
            names = events.take()
            if names:
                self._on_change(set(), names)
                self.look_soon()
