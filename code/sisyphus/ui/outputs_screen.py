"""The registered outputs: a list above, what is in the chosen one below."""

from __future__ import annotations

import os
from collections.abc import Callable

from rich.console import RenderableType
from rich.text import Text
from textual import on, work
from textual.app import ComposeResult
from textual.binding import Binding
from textual.containers import ScrollableContainer
from textual.message import Message
from textual.screen import Screen
from textual.widgets import Footer, Input, OptionList, Static
from textual.widgets.option_list import Option

from sisyphus.errors import SisyphusError
from sisyphus.terminal.overview import showable
from sisyphus.ui.rendering import rendered
from sisyphus.view import outputs
from sisyphus.view.facts import TargetFacts

_PERIOD_S = 1.0
"""Between two looks whether the chosen output changed."""


class OutputsScreen(Screen[None]):
    """Shows the targets of a graph.

    Args:
        targets: how they stand now.
    """

    DEFAULT_CSS = """
    OutputsScreen #words { height: 1; border: none; padding: 0 1; }
    OutputsScreen OptionList { height: auto; min-height: 4; max-height: 33%; border: none; padding: 0; }
    OutputsScreen OptionList:focus { border: none; }
    OutputsScreen #title { height: 1; background: $panel; padding: 0 1; text-style: bold; }
    OutputsScreen #body { height: 1fr; }
    OutputsScreen #content { width: auto; min-width: 100%; }
    """
    BINDINGS = [  # noqa: RUF012 - textual's way to say it
        Binding("slash", "search", "search", key_display="/"),
        Binding("enter", "read", "read", show=False),
        Binding("q,escape,t", "back", "back", key_display="q"),
    ]

    class WasRead(Message):
        """The chosen output was read."""

        def __init__(self, name: str, content: RenderableType, num_columns: int) -> None:
            super().__init__()
            self.name = name
            self.content = content
            self.num_columns = num_columns

    def __init__(self, targets: Callable[[], list[TargetFacts]]) -> None:
        super().__init__()
        self._targets = targets
        self._listed: list[tuple[str, bool]] = []
        self._read: tuple[object, ...] = ()
        """What the text below was made from."""

    def compose(self) -> ComposeResult:
        """What stands where."""
        yield Input(placeholder="/ words in the names of outputs", id="words")
        yield OptionList(id="outputs")
        yield Static(id="title")
        with ScrollableContainer(id="body"):
            yield Static(id="content")
        yield Footer()

    def on_mount(self) -> None:
        """Begin with the list, and keep it up to date."""
        self.query_one(OptionList).focus()
        self.set_interval(_PERIOD_S, self._renew)
        self._renew()

    def _renew(self) -> None:
        """Bring list and text up to date."""
        words = self.query_one(Input).value.lower().split()
        found = [one for one in self._targets() if all(word in one.name.lower() for word in words)]
        listed = [(target.name, target.done) for target in found]
        options = self.query_one(OptionList)
        if listed != self._listed:
            before = self._chosen_name
            self._listed = listed
            options.clear_options()
            options.add_options(Option(_label(target)) for target in found)
            names = [target.name for target in found]
            options.highlighted = names.index(before) if before in names else 0 if names else None
        chosen = [target for target in found if target.name == self._chosen_name]
        self.query_one("#title", Static).update(Text(showable(self._chosen_name)))
        if chosen:
            self._look(chosen[0])

    @property
    def _chosen_name(self) -> str:
        place = self.query_one(OptionList).highlighted
        return "" if place is None or place >= len(self._listed) else self._listed[place][0]

    @on(Input.Changed)
    @on(OptionList.OptionHighlighted)
    def _choose(self) -> None:
        self._renew()

    @work(thread=True, exclusive=True)
    def _look(self, target: TargetFacts) -> None:
        """Read an output if it is another one, or changed."""
        try:
            path = outputs.locate(target, 0, "")
            status = os.stat(path)
            key: tuple[object, ...] = (target.name, path, status.st_mtime_ns, status.st_size)
            if key == self._read:
                return
            content, num_columns = rendered(outputs.show(path), path)
        except (SisyphusError, OSError) as error:
            key, content, num_columns = (target.name, str(error)), _why_not(target, error), 0
            if key == self._read:
                return
        self._read = key
        self.post_message(self.WasRead(target.name, content, num_columns))

    @on(WasRead)
    def _show(self, read: WasRead) -> None:
        if read.name != self._chosen_name:
            return
        content = self.query_one("#content", Static)
        content.styles.width = max(read.num_columns, self.size.width - 2) if read.num_columns else "auto"
        content.update(read.content)

    # keys

    def action_search(self) -> None:
        """Go to the search."""
        self.query_one(Input).focus()

    @on(Input.Submitted)
    def _search_is_over(self) -> None:
        self.query_one(OptionList).focus()

    @on(OptionList.OptionSelected)
    def action_read(self) -> None:
        """Go to the text, so that the arrows scroll it."""
        self.query_one("#body").focus()

    def action_back(self) -> None:
        """Back to the list; from there, to the jobs."""
        options = self.query_one(OptionList)
        if self.focused is options:
            self.dismiss()
        else:
            options.focus()


def _label(target: TargetFacts) -> Text:
    mark = ("● ", "green") if target.done else ("○ ", "dim")
    return Text.assemble(mark, (showable(target.name), "" if target.done else "dim"))


def _why_not(target: TargetFacts, error: Exception) -> Text:
    """Why nothing is shown of a target."""
    if not outputs.places(target):
        return Text(f"a {target.kind}: it has no file")
    makers = f"; made by {', '.join(target.jobs)}" if target.jobs and not target.done else ""
    return Text(showable(f"{error}{makers}"))
