"""What its programs say, all on standard error: notes, and errors of one line with exit code 2."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence

from merging.errors import MergingError


def run(function: Callable[[Sequence[str]], None], argv: Sequence[str]) -> int:
    """Run a program; returns its exit code: 0, or 2 with one line on standard error."""
    try:
        function(argv)
    except MergingError as error:
        sys.stderr.write(f"error: {' '.join(str(error).split())}\n")
        return 2
    return 0


def say(text: str) -> None:
    """Print a line."""
    sys.stderr.write(text + "\n")


def note(text: str) -> None:
    """Print a line that explains what may surprise."""
    say(f"note: {text}")
