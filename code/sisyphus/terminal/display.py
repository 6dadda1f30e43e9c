"""Shows a person what the manager does: a live view on a terminal, plain log lines anywhere else."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Iterable
from typing import TYPE_CHECKING, Protocol

import sisyphus.global_settings as gs
from sisyphus.terminal import overview

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table

    from sisyphus.job import Job


class Display(Protocol):
    """What the manager tells."""

    def show(self, states: overview.States, num_finished: int) -> None:
        """The states after a pass."""

    def started(self, job: Job) -> None:
        """A job runs now."""

    def finished(self, job: Job, seconds: float) -> None:
        """A job finished; its tasks ran for ``seconds``."""

    def failed(self, job: Job, state: str, why: Iterable[str]) -> None:
        """A job needs a person."""

    def close(self) -> None:
        """Nothing more will come."""


FIRST_SILENCE_S, LONGEST_SILENCE_S = 15.0, 240.0
"""A log without changes shows what runs after the first time, then after twice as long, up to the second."""


class PlainDisplay:
    """One line when a job starts, finishes or fails; when nothing changes, now and then what runs."""

    def __init__(self) -> None:
        self._began = time.monotonic()
        self._running_since: dict[Job, float] = {}
        self._counts = ""
        self._silent_since = self._began
        self._silence_s = FIRST_SILENCE_S

    def show(self, states: overview.States, num_finished: int) -> None:
        """Counts and progress, if nothing was said for a while."""
        now = time.monotonic()
        known = self._running_since
        since = {
            job: known[job] if job in known else now - overview.running_seconds(job)
            for job in states.get(gs.STATE_RUNNING, ())
        }
        longest_first = sorted(since, key=lambda job: (since[job], overview.short_name(job)))
        self._running_since = {job: since[job] for job in longest_first}
        counts = f"finished({num_finished}) {overview.counts_text(overview.unfinished(states))}"
        if counts != self._counts:
            self._counts, self._silent_since, self._silence_s = counts, now, FIRST_SILENCE_S
        elif now - self._silent_since >= (gs.PRINT_STALE_STATE_OVERVIEW_PERIOD or self._silence_s):
            self._silent_since, self._silence_s = now, min(2 * self._silence_s, LONGEST_SILENCE_S)
            self._say_what_runs(now)

    def _say_what_runs(self, now: float) -> None:
        logging.info("%s", self._counts)
        for job, since in self._running_since.items():
            progress = overview.progress_text(job)
            name = overview.short_name(job) + (f" {{{progress}}}" if progress else "")
            logging.info("running: %s for %s", name, overview.duration(now - since))

    def started(self, job: Job) -> None:
        """One line."""
        logging.info("Started  %s", overview.short_name(job))

    def finished(self, job: Job, seconds: float) -> None:
        """One line, with the time it took."""
        logging.info("Finished %s in %s", overview.short_name(job), overview.duration(seconds))

    def failed(self, job: Job, state: str, why: Iterable[str]) -> None:
        """One line, the place in the config, the end of the log."""
        logging.error("%s", "\n".join([f"{state}: {overview.short_name(job)}", *why]))

    def close(self) -> None:
        """Nothing to put away."""


class LiveDisplay(PlainDisplay):
    """The same lines, and below them counts and what runs now, kept up to date."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.live import Live

        super().__init__()
        self._console = Console(stderr=True)
        self._live = Live(
            get_renderable=self._render, console=self._console, refresh_per_second=2, transient=True
        )
        self._refreshed_at = float("-inf")
        self._live.start()
        self._streams = [
            (handler, handler.setStream(sys.stderr))  # now rich's, which writes above the live part
            for handler in logging.getLogger().handlers
            if isinstance(handler, logging.StreamHandler)
        ]

    def show(self, states: overview.States, num_finished: int) -> None:
        """Counts and progress, now: lines that follow would show the old ones below them."""
        super().show(states, num_finished)
        now = time.monotonic()
        if now - self._refreshed_at >= _REFRESH_EVERY_S:
            self._refreshed_at = now
            self._live.refresh()

    def _say_what_runs(self, now: float) -> None:
        """Nothing: it is seen below."""

    def close(self) -> None:
        """Take the live part away."""
        self._live.stop()
        for handler, stream in self._streams:
            if stream is not None:
                handler.setStream(stream)
        self._streams = []

    def _render(self) -> RenderableType:
        from rich.console import Group
        from rich.text import Text

        running = list(self._running_since.items())
        room = max(1, self._console.height - _OTHER_ROWS)
        counts = self._counts or "looking at the jobs"
        if len(running) > room:
            counts += f"   {len(running) - room} running jobs more than fit here"
        elapsed = overview.duration(time.monotonic() - self._began)
        return Group(_running_table(running[:room]), Text(f"{counts}   {elapsed}", style="bold"))


_REFRESH_EVERY_S = 0.1
"""Small jobs end more often than anybody can read."""

_OTHER_ROWS = 4
"""Rows of a terminal that stay free of running jobs: the counts, and a few lines of the log."""


def _running_table(running: Iterable[tuple[Job, float]]) -> Table:
    """One row for each running job: name, how far it is, for how long it runs, what it says."""
    from rich.table import Table
    from rich.text import Text

    table = Table.grid(padding=(0, 2))
    for _ in range(5):
        table.add_column(no_wrap=True, overflow="ellipsis")
    for job, since in running:
        elapsed = overview.duration(time.monotonic() - since)
        bar, percent = _progress(job)
        table.add_row(Text(overview.short_name(job)), bar, percent, elapsed, Text(overview.info_text(job)))
    return table


def _progress(job: Job) -> tuple[RenderableType, str]:
    from rich.progress_bar import ProgressBar

    fraction = overview.fraction_done(job)
    if fraction is None:
        return "", ""
    return ProgressBar(total=1.0, completed=fraction, width=20), f"{fraction:.0%}"


def make_display() -> Display:
    """The display that fits to where stderr goes."""
    return LiveDisplay() if sys.stderr.isatty() else PlainDisplay()
