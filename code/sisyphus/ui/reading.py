"""Reads what is shown of a job in a thread of its own, because disks may be slow."""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable
from dataclasses import dataclass

from sisyphus.view.facts import JobFacts


@dataclass(frozen=True)
class Wish:
    """Something to read."""

    pane: str
    key: Hashable
    """Another one for another text."""
    job: JobFacts
    ask: Callable[[JobFacts], list[str]]


class Reader:
    """Fulfils the newest wish; one that was not begun when the next came is dropped.

    Args:
        deliver: takes the lines, in the reading thread.
    """

    def __init__(self, deliver: Callable[[Wish, list[str]], object]) -> None:
        self._deliver = deliver
        self._newest: Wish | None = None
        self._reading: Wish | None = None
        self._changed = threading.Condition()
        self._closing = False
        threading.Thread(target=self._work, name="reader", daemon=True).start()

    def want(self, wish: Wish) -> None:
        """Wish for something, unless it is just being read."""
        with self._changed:
            now = self._reading
            if now is None or (now.pane, now.key) != (wish.pane, wish.key):
                self._newest = wish
                self._changed.notify()

    def close(self) -> None:
        """Read no more."""
        with self._changed:
            self._closing = True
            self._changed.notify()

    def _work(self) -> None:
        while True:
            with self._changed:
                self._reading = None
                self._changed.wait_for(lambda: self._newest or self._closing)
                if self._closing or self._newest is None:
                    return
                wish, self._newest = self._newest, None
                self._reading = wish
            try:
                lines = wish.ask(wish.job)
            except OSError as error:
                lines = [f"cannot read it: {error}"]
            self._deliver(wish, lines)
