"""What a scheduler's books say of jobs that its queue no longer shows, or shows without a reason."""

from __future__ import annotations

import logging
import time

from sisyphus.engines.cluster.commands import Unreachable
from sisyphus.engines.cluster.scheduler import Ended, Scheduler

ASKED_EVERY_S = 5.0
"""The books are not asked more often than this for a job that they do not know."""


class Books:
    """Asks for whole jobs, and remembers the answers: the ids of an array cost one question.

    Args:
        scheduler: whose books they are.
    """

    def __init__(self, scheduler: Scheduler) -> None:
        self._scheduler = scheduler
        self._known: dict[str, dict[int, Ended]] = {}
        self._asked_at: dict[str, float] = {}
        self._missed_at: dict[tuple[str, int], float] = {}
        """Since when the books should know an element, but do not."""

    def of(self, job_id: str, task_id: int) -> Ended | None:
        """How one element of a job ended; None: they do not know it, or not yet, or do not answer."""
        known = self._known.get(job_id, {})
        now = time.monotonic()
        if task_id not in known and now - self._asked_at.get(job_id, float("-inf")) >= ASKED_EVERY_S:
            self._asked_at[job_id] = now
            try:
                known = self._known[job_id] = self._scheduler.history(job_id)
            except Unreachable as error:
                logging.debug("No books: %s", error)
        return known.get(task_id)

    def may_come(self, job_id: str, task_id: int) -> bool:
        """Whether what they do not know of an element that left the queue may still be entered."""
        missed_at = self._missed_at.setdefault((job_id, task_id), time.monotonic())
        return time.monotonic() - missed_at < self._scheduler.books_lag_s
