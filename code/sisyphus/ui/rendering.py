"""What is in an output, as it looks on a terminal: tables as tables, of images only where they lie."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

from rich import box
from rich.console import Console, Group, RenderableType
from rich.markdown import Markdown
from rich.table import Table
from rich.text import Text

from sisyphus.terminal.overview import without_controls

_WIDEST = 1000
"""Columns of a table; a wider one is squeezed."""
_NUMBERS = frozenset("0123456789.,+-–−±%[]() eE")


def rendered(shown: Mapping[str, Any], path: str) -> tuple[RenderableType, int]:
    """Return what is drawn of an output, and how many columns it needs at least.

    Args:
        shown: what :func:`sisyphus.view.outputs.show` returned.
        path: of the file or folder.
    """
    kind = shown["kind"]
    if kind == "folder":
        names = [f"{entry['name']}{'/' if entry['folder'] else ''}" for entry in shown["names"]]
        return Text(without_controls("\n".join([f"folder {os.path.relpath(path)}:", *names]))), 0
    if kind in ("image", "binary"):
        shown_by = "; sis web shows it" if kind == "image" else ""
        return Text(
            without_controls(f"{kind} of {shown['bytes']:,} bytes: {os.path.relpath(path)}{shown_by}")
        ), 0
    above = [Text(f"the beginning; {shown['bytes']:,} bytes in all", "dim")] if shown["cut"] else []
    if kind == "table":
        table = _table(shown["rows"])
        return Group(*above, table), Console(width=_WIDEST).measure(table).maximum
    text = without_controls(shown["text"])
    if kind == "markdown":
        rows = [line for line in text.splitlines() if line.lstrip().startswith("|")]
        widest = max((len(row) + 2 * row.count("|") for row in rows), default=0)  # Rich pads more than most
        return Group(*above, Markdown(text, hyperlinks=False)), min(widest, _WIDEST)
    return Group(*above, Text(text)), 0


def _table(rows: Sequence[Sequence[str]]) -> Table:
    """A table whose first row is its head; columns of numbers stand right."""
    head, *body = rows or [[]]
    table = Table(header_style="bold", box=box.SIMPLE)
    for number, name in enumerate(head):
        cells = [row[number] for row in body if number < len(row)]
        right = bool(cells) and all(_NUMBERS.issuperset(cell) for cell in cells)
        table.add_column(Text(without_controls(name)), justify="right" if right else "left", no_wrap=True)
    for row in body:
        table.add_row(*(Text(without_controls(cell)) for cell in row[: len(head)]))
    return table
