"""All jobs as a table; only the rows that are visible are made, so that 10,000 cost what 30 do."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rich.segment import Segment
from rich.style import Style
from textual import events
from textual.binding import Binding
from textual.geometry import Region, Size
from textual.message import Message
from textual.scroll_view import ScrollView
from textual.strip import Strip

from sisyphus.states import State
from sisyphus.terminal.overview import FAILED, duration, showable
from sisyphus.view.facts import JobFacts

STYLES = {
    **{str(state): Style(color="red", bold=True) for state in FAILED},
    State.RUNNING.value: Style(color="bright_blue", bold=True),
    State.QUEUE.value: Style(color="cyan"),
    State.RUNNABLE.value: Style(color="cyan"),
    State.HOLD.value: Style(color="magenta"),
    State.UNKNOWN.value: Style(color="yellow"),
    State.INTERRUPTED_RESUMABLE.value: Style(color="yellow"),
    State.FINISHED.value: Style(color="green"),
    State.WAITING.value: Style(dim=True),
}
"""Colour of a state."""

_STATE, _PROGRESS, _TIME, _MEMORY = 11, 16, 9, 9
"""Widths of the columns; what is left is the name's."""
_WIDEST_CLASS = 20
_NAME = 2
"""Which column that is."""
_BAR = 10
_CURSOR = Style(reverse=True)


class JobTable(ScrollView, can_focus=True):
    """A table of jobs with a cursor that stays on its job when rows move."""

    DEFAULT_CSS = "JobTable { height: 1fr; overflow-x: hidden; overflow-y: scroll; }"
    BINDINGS = [  # noqa: RUF012 - textual's way to say it
        Binding("up", "move(-1)", show=False),
        Binding("down", "move(1)", show=False),
        Binding("pageup", "move_pages(-1)", show=False),
        Binding("pagedown", "move_pages(1)", show=False),
        Binding("home", "move_to(0)", show=False),
        Binding("end", "move_to(-1)", show=False),
    ]

    class Chosen(Message):
        """The cursor is on another job."""

        def __init__(self, job: JobFacts | None) -> None:
            super().__init__()
            self.job = job

    def __init__(self, id: str) -> None:
        super().__init__(id=id)
        self.jobs: list[JobFacts] = []
        self._cursor = 0
        self._class_width = 5

    @property
    def chosen(self) -> JobFacts | None:
        """The job below the cursor."""
        return self.jobs[self._cursor] if self.jobs else None

    def show(self, jobs: list[JobFacts], *, follow: bool = False) -> None:
        """List these jobs.

        Args:
            jobs: the rows.
            follow: scroll to the cursor, wherever its job is now.
        """
        before = self.chosen
        self.jobs = jobs
        if before is not None:
            places = (place for place, job in enumerate(jobs) if job.id == before.id)
            self._cursor = next(places, self._cursor)
        self._cursor = max(0, min(self._cursor, len(jobs) - 1))
        self._class_width = min(_WIDEST_CLASS, max((len(job.class_name) for job in jobs), default=5))
        self.virtual_size = Size(0, len(jobs) + 1)
        self.refresh()
        if follow:
            self._scroll_to_cursor()
        if (before and before.id) != (self.chosen and self.chosen.id):
            self.post_message(self.Chosen(self.chosen))

    def choose(self, place: int) -> None:
        """Put the cursor on a row; outside the table, on the nearest one."""
        before = self._cursor
        self._cursor = max(0, min(place, len(self.jobs) - 1))
        if self._cursor != before:
            self._scroll_to_cursor()
            self.refresh()
            self.post_message(self.Chosen(self.chosen))

    def _scroll_to_cursor(self) -> None:
        row = Region(0, self._cursor, 1, 2)  # one line more: the head covers the first
        self.scroll_to_region(row, animate=False, force=True)

    def action_move(self, rows: int) -> None:
        """Move the cursor."""
        self.choose(self._cursor + rows)

    def action_move_pages(self, pages: int) -> None:
        """Move the cursor by what is visible."""
        self.choose(self._cursor + pages * max(1, self.size.height - 1))

    def action_move_to(self, place: int) -> None:
        """Move the cursor to the first (0) or last (-1) row."""
        self.choose(place % len(self.jobs) if self.jobs else 0)

    def on_click(self, event: events.Click) -> None:
        """Put the cursor on what was clicked."""
        if event.y:
            self.choose(self.scroll_offset.y + event.y - 1)

    def render_line(self, y: int) -> Strip:
        """One line of the screen: the head, or a job."""
        width = self.size.width
        if y == 0:
            cells = _cells(("state", "class", "job", "progress", "time", "memory"), self._class_width, width)
            return Strip([Segment("".join(cells), Style(bold=True, underline=True))]).adjust_cell_length(
                width
            )
        place = self.scroll_offset.y + y - 1
        if place >= len(self.jobs):
            return Strip.blank(width)
        return Strip(self._segments(self.jobs[place], width, place == self._cursor)).adjust_cell_length(width)

    def _segments(self, job: JobFacts, width: int, below_cursor: bool) -> Iterator[Segment]:
        """The cells of a job."""
        used = job.usage
        texts = (
            job.state,
            job.class_name,
            showable(f"{job.name} {job.info or job.broken or job.failure}".replace("\n", " ")),
            "" if job.progress is None else f"{bar(job.progress)} {job.progress:4.0%}",
            "" if used is None else duration(used.wall_s),
            "" if used is None else f"{used.peak_memory_gb:.2f} GB",
        )
        style = STYLES.get(job.state, Style())
        for number, cell in enumerate(_cells(texts, self._class_width, width)):
            yield Segment(cell, _CURSOR if below_cursor else Style() if number == _NAME else style)


def bar(fraction: float) -> str:
    """Return a fraction as a bar."""
    full = round(fraction * _BAR)
    return "━" * full + "╌" * (_BAR - full)


def _cells(texts: Sequence[str], class_width: int, width: int) -> list[str]:
    """Texts cut and filled up to the widths of the columns; a narrow screen does without the last ones."""
    widths = [_STATE, max(class_width, 5), 0, _PROGRESS, _TIME, _MEMORY]
    while len(widths) > 3 and width - sum(widths) - len(widths) < 30:
        widths.pop()
    widths[2] = max(10, width - sum(widths) - len(widths))
    return [f"{_cut(text, room):<{room}} " for text, room in zip(texts, widths, strict=False)]


def _cut(text: str, room: int) -> str:
    return text if len(text) <= room else f"{text[: room - 1]}…"
