"""The screen: a list of jobs above, what is known of the chosen one below; keys, and what happens at each."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from rich.text import Text
from textual import on, work
from textual.app import ComposeResult
from textual.binding import Binding
from textual.containers import Vertical, VerticalScroll
from textual.message import Message
from textual.screen import Screen
from textual.widgets import (
    ContentSwitcher,
    Footer,
    Input,
    RichLog,
    Static,
    Tab,
    TabbedContent,
    TabPane,
    Tabs,
)
from textual.worker import get_current_worker

from sisyphus import global_settings as gs
from sisyphus.errors import SisyphusError
from sisyphus.terminal import overview
from sisyphus.ui.backend import Backend, ManagerBackend
from sisyphus.ui.block_tree import BlockTree
from sisyphus.ui.filtering import GROUPS, Filter, count_groups
from sisyphus.ui.job_table import STYLES, JobTable
from sisyphus.ui.messages import Messages
from sisyphus.ui.outputs_screen import OutputsScreen
from sisyphus.ui.question import Question
from sisyphus.ui.reading import Reader, Wish
from sisyphus.view.facts import GraphFacts, JobFacts

_PERIOD_S = 0.5
"""Between two looks, and between two looks at a log."""
_SHARE_OF_TIME = 0.1
"""At most this share of the time is spent on looking."""

_HELP = """\
arrows, page up/down  move among the jobs, or scroll what is below
tab, shift+tab        go from list to tabs to text, and back
enter                 read about the job; in the tree, fold or unfold
/         search; state:error class:Train block:exp tag:x target:y
s         only failed, running, waiting, finished jobs, one after another
b         blocks instead of the table, and back
t         registered outputs: tables, texts, folders
d l w m   details, log, arguments and why, messages
o         hold the job: it is not started until released; o again
x         stop what runs or is queued of the job, and hold it
r         retry: the failed or interrupted job goes on
R         retry from the start: its folder is moved aside
q, esc    back; quit
"""
_HELP_MANAGER = """\
p         pause: submit nothing new; again: go on
c         clear errors: all jobs in error begin anew
a         bring aliases and outputs up to date
"""


class Looked(Message):
    """A look at the graph is done."""

    def __init__(self, facts: GraphFacts | None, error: str = "") -> None:
        super().__init__()
        self.facts = facts
        self.error = error


class WasRead(Message):
    """Something was read of a job."""

    def __init__(self, wish: Wish, lines: list[str]) -> None:
        super().__init__()
        self.wish = wish
        self.lines = lines


class JobsScreen(Screen[None]):
    """Shows a graph, and does what keys ask for.

    Args:
        backend: asked about the graph.
        messages: log lines to show.
    """

    DEFAULT_CSS = """
    #status { height: 1; background: $panel; padding: 0 1; }
    #above { height: 1fr; min-height: 6; }
    #below { height: 1fr; min-height: 6; }
    #search { height: 1; border: none; display: none; padding: 0 1; }
    #search.open { display: block; }
    #list { height: 1fr; }
    RichLog { height: 1fr; }
    """
    BINDINGS = [  # noqa: RUF012 - textual's way to say it
        Binding("h,f1,question_mark", "help", "help", key_display="h"),
        Binding("slash", "search", "find", key_display="/"),
        Binding("s", "next_group", "state"),
        Binding("b", "blocks", "blocks"),
        Binding("t", "outputs", "outputs"),
        Binding("d", "pane('details')", "details", show=False),
        Binding("l", "pane('log')", "log", show=False),
        Binding("w", "pane('why')", "why", show=False),
        Binding("m", "pane('messages')", "messages", show=False),
        Binding("enter", "read", show=False),
        Binding("o", "hold", "hold"),
        Binding("x", "cancel", "stop", show=False),
        Binding("r", "retry(False)", "retry"),
        Binding("R", "retry(True)", "anew", show=False),
        Binding("p", "pause", "pause"),
        Binding("c", "clear_errors", "clear errors", show=False),
        Binding("a", "update_links", "links", show=False),
        Binding("q", "back", "quit"),
        Binding("escape", "back", show=False),
    ]

    def __init__(self, backend: Backend, messages: Messages) -> None:
        super().__init__()
        self.backend = backend
        self.messages = messages
        self.facts: GraphFacts | None = None
        self._filter = Filter()
        self._jobs: dict[str, JobFacts] = {}
        self._began = time.monotonic()
        self._look_now = threading.Event()
        self._left = threading.Event()
        self._reader = Reader(lambda wish, lines: self.post_message(WasRead(wish, lines)))
        self._shown: dict[str, Any] = {}
        """What the panes show, so that nothing is made anew that did not change."""

    def compose(self) -> ComposeResult:
        """What stands where."""
        yield Static(id="status")
        with Vertical(id="above"):
            yield Tabs(*(Tab(name, id=name) for name in GROUPS), id="groups")
            yield Input(placeholder="words; state: class: block: tag: target:", id="search")
            with ContentSwitcher(initial="table", id="list"):
                yield JobTable("table")
                yield BlockTree("blocks")
        with TabbedContent(id="below", initial="details"):
            with TabPane("Details", id="details"), VerticalScroll():
                yield Static(id="details_text")
            with TabPane("Log", id="log"):
                yield RichLog(id="log_text", wrap=True)
            with TabPane("Arguments, why", id="why"), VerticalScroll():
                yield Static(id="why_text")
            with TabPane("Messages", id="messages"):
                yield RichLog(id="messages_text", wrap=True, max_lines=5000)
        yield Footer()

    def on_mount(self) -> None:
        """Begin to look."""
        self.query_one(JobTable).focus()
        self.set_interval(_PERIOD_S, self._refresh)
        self._look()

    def on_unmount(self) -> None:
        """End the looking."""
        self._left.set()
        self._look_now.set()
        self._reader.close()

    # looking

    @work(thread=True, exclusive=True)
    def _look(self) -> None:
        """Look again and again, in a thread of its own."""
        worker = get_current_worker()
        while not (worker.is_cancelled or self._left.is_set()):
            self._look_now.clear()
            began = time.monotonic()
            try:
                self.post_message(Looked(self.backend.look()))
            except OSError as error:  # a disk that does not answer now may do so later
                self.post_message(Looked(None, str(error)))
            self._look_now.wait(max(_PERIOD_S, (time.monotonic() - began) / _SHARE_OF_TIME))

    @on(Looked)
    def _show(self, looked: Looked) -> None:
        if looked.facts is None:
            self._say_status(f"cannot look at the jobs: {looked.error}")
            return
        self.facts = looked.facts
        self._jobs = {job.id: job for job in looked.facts.jobs}
        for name, number in count_groups(looked.facts.counts).items():
            if self._shown.get(name) != number:
                self._shown[name] = number
                self.query_one(f"#{name}", Tab).label = Text(f"{name} {number:,}")
        self._say_status()
        self._list()
        self._show_chosen()

    def _list(self, *, follow: bool = False) -> None:
        """Bring the list that is visible up to date; ``follow``: scroll to the cursor."""
        if self.facts is None:
            return
        if self._in_tree:
            self.query_one(BlockTree).show(self.facts.jobs)
        else:
            self.query_one(JobTable).show(self._filter.jobs(self.facts.jobs), follow=follow)

    def _say_status(self, error: str = "") -> None:
        facts = self.facts
        text = Text(f"{self.backend.status()}  ", "bold")
        if facts is None or error:
            text.append(error)
        else:
            done = sum(target.done for target in facts.targets)
            text.append(
                f"{done}/{len(facts.targets)} targets  {overview.duration(self._seconds)}  ", "not bold"
            )
            for state, number in facts.counts.items():
                text.append(f"{state} {number}  ", STYLES.get(state, ""))
            if facts.missing:
                text.append(f"{gs.STATE_INPUT_MISSING}: {facts.missing[0]} ({len(facts.missing)})  ", "red")
            if facts.waiting_configs:
                text.append(f"more jobs may come: {' '.join(facts.waiting_configs)}")
        self.query_one("#status", Static).update(text)

    def _refresh(self) -> None:
        """What changes without a look: messages, the log of the chosen job."""
        for level, text in self.messages.take():
            style = "red" if level >= logging.ERROR else "yellow" if level >= logging.WARNING else ""
            _write(self.query_one("#messages_text", RichLog), Text(text, style))
        if self._pane == "log":
            self._show_chosen()

    # the chosen job

    @property
    def chosen(self) -> JobFacts | None:
        """The job below the cursor, as last seen."""
        shown: JobTable | BlockTree = self.query_one(BlockTree) if self._in_tree else self.query_one(JobTable)
        return shown.chosen

    @property
    def _in_tree(self) -> bool:
        return self.query_one("#list", ContentSwitcher).current == "blocks"

    @property
    def _pane(self) -> str:
        return self.query_one("#below", TabbedContent).active

    @on(JobTable.Chosen)
    @on(BlockTree.Chosen)
    @on(TabbedContent.TabActivated, "#below")
    def _show_chosen(self) -> None:
        """Have the text below the list brought up to date."""
        job, pane = self.chosen, self._pane
        if job is None:
            return
        if pane == "details":
            self._want(Wish(pane, job, job, self.backend.details))
        elif pane == "why":
            self._want(Wish(pane, job.id, job, self.backend.why))
        elif pane == "log":  # it may have grown
            self._reader.want(Wish(pane, job.id, job, self.backend.log))

    def _want(self, wish: Wish) -> None:
        if self._shown.get(wish.pane) != wish.key:
            self._reader.want(wish)

    @on(WasRead)
    def _show_text(self, read: WasRead) -> None:
        wish = read.wish
        if self.chosen is None or self.chosen.id != wish.job.id:
            return  # the cursor went on meanwhile
        if wish.pane == "log":
            before, now = self._shown.get("log"), (wish.key, read.lines)
            if before != now:
                self._shown["log"] = now
                self._show_log(read.lines, another=not before or before[0] != wish.key)
            return
        self._shown[wish.pane] = wish.key
        self.query_one(f"#{wish.pane}_text", Static).update(Text("\n".join(read.lines)))

    def _show_log(self, lines: list[str], another: bool) -> None:
        """Show a log; one that grew stays where a person scrolled to."""
        log = self.query_one("#log_text", RichLog)
        top = None if another or log.is_vertical_scroll_end else log.scroll_y
        name, *rest = lines or ["no task of this job was started yet"]
        log.clear()
        _write(log, Text("\n".join([name, *rest])))
        if top is not None:
            log.scroll_to(y=top, animate=False)

    @property
    def _seconds(self) -> float:
        return time.monotonic() - self._began

    # keys

    def action_help(self) -> None:
        """Show the keys."""
        self.app.push_screen(Question(_HELP + (_HELP_MANAGER if self.backend.manages else "")))

    def action_search(self) -> None:
        """Open the search, above the table."""
        if self._in_tree:
            self.action_blocks()
        search = self.query_one("#search", Input)
        search.add_class("open")
        search.focus()

    @on(Input.Changed, "#search")
    def _search(self, event: Input.Changed) -> None:
        self._filter = replace(self._filter, text=event.value)
        self._list(follow=True)

    @on(Input.Submitted, "#search")
    def _search_is_over(self) -> None:
        self.query_one(JobTable).focus()

    @on(Tabs.TabActivated, "#groups")
    def _group(self, event: Tabs.TabActivated) -> None:
        self._filter = replace(self._filter, group=str(event.tab.id))
        self._list(follow=True)

    def action_next_group(self) -> None:
        """Show the next group of states."""
        if self._in_tree:
            self.action_blocks()
        self.query_one("#groups", Tabs).action_next_tab()

    def action_blocks(self) -> None:
        """Show the tree instead of the table, or the table again."""
        shown = "table" if self._in_tree else "blocks"
        self.query_one("#list", ContentSwitcher).current = shown
        self._list()
        self.query_one(f"#{shown}").focus()
        self._show_chosen()

    def action_outputs(self) -> None:
        """Show the registered outputs."""
        self.app.push_screen(OutputsScreen(lambda: [] if self.facts is None else self.facts.targets))

    def action_pane(self, name: str) -> None:
        """Show another text of the chosen job."""
        self.query_one("#below", TabbedContent).active = name
        self._show_chosen()

    def action_read(self) -> None:
        """Move to the text, so that the arrows scroll it."""
        pane = self.query_one(f"#{self._pane}", TabPane)
        pane.query("VerticalScroll, RichLog").first().focus()

    def action_hold(self) -> None:
        """Hold or release the chosen job."""
        self._act(self.backend.hold_or_release)

    def action_cancel(self) -> None:
        """Stop the chosen job, after a question."""
        job = self.chosen
        if job is None:
            return

        def take(yes: bool | None) -> None:
            if yes:
                self._cancel(job)

        text = f"{overview.showable(job.name)}:\nstop what runs or is queued of it, and hold it? y: yes"
        self.app.push_screen(Question(text), take)

    @work(thread=True)
    def _cancel(self, job: JobFacts) -> None:
        try:
            self.backend.cancel(job)
        except (SisyphusError, OSError) as error:
            logging.error("That did not work: %s", error)
        self._look_now.set()

    def action_retry(self, from_start: bool) -> None:
        """Let the chosen job run again."""
        job = self.chosen
        if not from_start or job is None:
            self._act(lambda job: self.backend.retry(job, from_start=False))
            return
        self.app.push_screen(
            Question(f"{job.folder}\nis moved aside, and the job begins anew. y: yes, any other key: no"),
            lambda yes: self._act(lambda job: self.backend.retry(job, from_start=True)) if yes else None,
        )

    def _act(self, act: Callable[[JobFacts], object]) -> None:
        """Do something to the chosen job; what came of it is told by a message."""
        job = self.chosen
        if job is None:
            return
        try:
            act(job)
        except OSError as error:
            logging.error("That did not work: %s", error)
        self._look_now.set()

    def action_pause(self) -> None:
        """Pause the manager, or go on."""
        if isinstance(self.backend, ManagerBackend):
            self.backend.pause_or_go_on()
            self._look_now.set()

    def action_clear_errors(self) -> None:
        """Have all jobs in error begin anew."""
        backend = self.backend
        number = 0 if self.facts is None else self.facts.counts.get(gs.STATE_ERROR, 0)
        if isinstance(backend, ManagerBackend) and number:
            self.app.push_screen(
                Question(f"Move the folders of {number} jobs in error aside, and begin them anew? y: yes"),
                lambda yes: backend.clear_errors() if yes else None,
            )

    def action_update_links(self) -> None:
        """Bring aliases and outputs up to date."""
        if isinstance(self.backend, ManagerBackend):
            self.backend.update_links()

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """Keys of the manager are there where one is."""
        return self.backend.manages or action not in ("pause", "clear_errors", "update_links")

    def action_back(self) -> None:
        """Close the search, go back to the list; from there, leave."""
        search = self.query_one("#search", Input)
        shown = self.query_one("#blocks" if self._in_tree else "#table")
        if search.has_class("open"):
            search.value = ""
            search.remove_class("open")
        elif self.focused is shown:
            self.action_leave()
            return
        shown.focus()

    def action_leave(self) -> None:
        """End; while the manager works, after a question."""
        if isinstance(self.backend, ManagerBackend) and self.backend.works:
            text = "Stop the manager? Running jobs go on without it. y: yes, any other key: no"
            self.app.push_screen(Question(text), lambda yes: self.app.exit() if yes else None)
        else:
            self.app.exit()


def _write(log: RichLog, text: Text) -> None:
    """Write to a log as wide as it is; by itself it would take the width of its console."""
    log.write(text, width=log.scrollable_content_region.width or None)
