"""Answers of commands: on stdout, because they are what was asked for. Log lines go to stderr."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Sequence
from typing import Any


def say(text: str = "") -> None:
    """Print a line."""
    print(text)  # noqa: T201 - see above


def say_json(value: Any) -> None:
    """Print a value as JSON."""
    json.dump(value, sys.stdout, indent=2, ensure_ascii=False)
    say()


def say_table(rows: Iterable[Sequence[object]], right: Sequence[int] = ()) -> None:
    """Print rows as columns of equal width.

    Args:
        rows: cells; each row has as many.
        right: indices of columns that are aligned to the right.
    """
    texts = [[str(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*texts, strict=True)]
    for row in texts:
        cells = (
            cell.rjust(width) if index in right else cell.ljust(width)
            for index, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        say("  ".join(cells).rstrip())


def count(number: int, noun: str) -> str:
    """Return e.g. ``1 job`` or ``2 jobs``."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"
