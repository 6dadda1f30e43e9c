"""Opens the interface, if there is a terminal and the library for it."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING

from sisyphus.ui.messages import kept_off_the_terminal

if TYPE_CHECKING:
    from sisyphus.ui.backend import Backend


def why_not() -> str:
    """Return why the interface cannot be opened here; empty if it can."""
    if importlib.util.find_spec("textual") is None:
        return "The text user interface needs the package textual: pip install textual."
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        return "The text user interface needs a terminal for stdin and stderr. Without one leave --ui out."
    return ""


def show(make_backend: Callable[[], Backend], *, log_file: bool = False) -> None:
    """Show the interface until a person leaves, then close the backend.

    Args:
        make_backend: called when log lines no longer go to the terminal.
        log_file: write the log lines of meanwhile to ``log/manager.log.<time>``.

    Raises:
        Exception: what ended the manager, if that was an error.
    """
    from sisyphus.ui.interface import Interface

    with kept_off_the_terminal(log_file) as messages:
        backend = make_backend()
        try:
            Interface(backend, messages).run()
        finally:
            backend.close()
