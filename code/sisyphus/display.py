"""Shows a person what the manager does: a live view on a terminal, plain log lines anywhere else."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Protocol

import sisyphus.global_settings as gs
from sisyphus import overview

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
        running = sorted(states.get(gs.STATE_RUNNING, ()))
        self._running_since = {job: self._running_since.get(job, now) for job in running}
        counts = f"finished({num_finished}) {overview.counts_text(overview.unfinished(states))}"
        if counts != self._counts:
            self._counts, self._silent_since, self._silence_s = counts, now, FIRST_SILENCE_S
        elif now - self._silent_since >= (gs.PRINT_STALE_STATE_OVERVIEW_PERIOD or self._silence_s):
            self._silent_since, self._silence_s = now, min(2 * self._silence_s, LONGEST_SILENCE_S)
            self._say_what_runs(now)

    def _say_what_runs(self, now: float) -> None:
        logging.info("%s", self._counts)
        for job, since in self._running_since.items():
            line = overview.describe(job, state=gs.STATE_RUNNING)
            logging.info("running: %s for %s", line, overview.duration(now - since))

    def started(self, job: Job) -> None:
        """One line."""
        logging.info("Started  %s", overview.describe(job))

    def finished(self, job: Job, seconds: float) -> None:
        """One line, with the time it took."""
        logging.info("Finished %s in %s", overview.describe(job), overview.duration(seconds))

    def failed(self, job: Job, state: str, why: Iterable[str]) -> None:
        """One line, the place in the config, the end of the log."""
        logging.error("%s", "\n".join([f"{state}: {overview.describe(job)}", *why]))

    def close(self) -> None:
        """Nothing to put away."""


class LiveDisplay(PlainDisplay):
    """The same lines, and below them counts and what runs now, kept up to date."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.live import Live

        super().__init__()
        self._live = Live(
            get_renderable=self._render, console=Console(stderr=True), refresh_per_second=2, transient=True
        )
        self._live.start()
        self._streams = [
            (handler, handler.setStream(sys.stderr))  # now rich's, which writes above the live part
            for handler in logging.getLogger().handlers
            if isinstance(handler, logging.StreamHandler)
        ]

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

        elapsed = overview.duration(time.monotonic() - self._began)
        return Group(self._running_table(), Text(f"{self._counts}   {elapsed}", style="bold"))

    def _running_table(self) -> Table:
        from rich.table import Table

        table = Table.grid(padding=(0, 2))
        for job, since in list(self._running_since.items()):
            elapsed = overview.duration(time.monotonic() - since)
            table.add_row(_short_name(job), _bar(job), elapsed, overview.info_text(job))
        return table


def _short_name(job: Any) -> str:
    """Alias or id of a job: what fits into a column."""
    return str(job.get_vis_name() or job.get_one_alias() or job._sis_id())


def _bar(job: Job) -> RenderableType:
    from rich.progress_bar import ProgressBar

    fraction = overview.fraction_done(job)
    if fraction is None:
        return ""
    return ProgressBar(total=1.0, completed=fraction, width=20)


def make_display() -> Display:
    """The display that fits to where stderr goes."""
    return LiveDisplay() if sys.stderr.isatty() else PlainDisplay()
