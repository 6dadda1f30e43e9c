"""The application around the screen: it ends at signals, and gives the terminal back."""

from __future__ import annotations

import asyncio
import signal

from textual.app import App
from textual.binding import Binding
from textual.screen import Screen

from sisyphus.ui.backend import Backend
from sisyphus.ui.jobs_screen import JobsScreen
from sisyphus.ui.messages import Messages
from sisyphus.ui.question import Question


class Interface(App[None]):
    """Shows a graph until a person leaves.

    Args:
        backend: asked about the graph.
        messages: log lines to show.
    """

    TITLE = "Sisyphus"
    ENABLE_COMMAND_PALETTE = False
    BINDINGS = [  # noqa: RUF012 - textual's way to say it
        Binding("ctrl+c,ctrl+q", "leave", show=False, priority=True)
    ]

    def __init__(self, backend: Backend, messages: Messages) -> None:
        super().__init__()
        self.jobs = JobsScreen(backend, messages)

    def get_default_screen(self) -> Screen[None]:
        """The screen of jobs."""
        return self.jobs

    def on_mount(self) -> None:
        """End at signals: otherwise the terminal would be left as it is."""
        if not self.is_headless:
            loop = asyncio.get_running_loop()
            for number in (signal.SIGINT, signal.SIGTERM):
                loop.add_signal_handler(number, self.exit)

    def action_leave(self) -> None:
        """End, after a question while the manager works; asked while a question is open, at once."""
        if isinstance(self.screen, Question):
            self.exit()
        else:
            self.jobs.action_leave()
