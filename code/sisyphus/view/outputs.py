"""What is shown of registered outputs: tables, images, texts, folders. Nothing outside the project is."""

from __future__ import annotations

import csv
import os
import stat
from collections.abc import Mapping
from typing import Any

from sisyphus import global_settings as gs
from sisyphus.errors import SisyphusError
from sisyphus.view.facts import TargetFacts

IMAGES: Mapping[str, str] = {
    ".png": "image/png",
    ".jpg": "image/jpeg",
    ".jpeg": "image/jpeg",
    ".gif": "image/gif",
    ".webp": "image/webp",
    ".svg": "image/svg+xml",
}
"""Suffixes of files that are sent as they are, and their types."""

_DELIMITERS = {".csv": ",", ".tsv": "\t"}
_MOST_BYTES = 1 << 20
_MOST_ROWS = 2000
_MOST_NAMES = 1000


class NotShownError(SisyphusError):
    """A file that is not there, or that must not be shown."""


class NotThereYetError(NotShownError):
    """A file that some job has yet to make."""


def places(target: TargetFacts) -> list[str]:
    """Return where what a target wants lies, relative to the project; nothing for callbacks."""
    if target.kind == "report":
        return [os.path.join(gs.OUTPUT_DIR, target.name)]
    return target.paths if target.kind == "output" else []


def locate(target: TargetFacts, number: int, inside: str) -> str:
    """Return the real path of a file or folder of a target.

    Args:
        target: the target.
        number: which of its places.
        inside: path below that place; empty for the place itself.

    Raises:
        NotThereYetError: there is no such file.
        NotShownError: it lies outside of the project or of the place, or there is no such place.
    """
    known = places(target)
    if not 0 <= number < len(known):
        raise NotShownError(f"{target.name} has no output {number}")
    parts = [part for part in inside.split("/") if part]
    if "\0" in inside or ".." in parts or inside.startswith("/"):
        raise NotShownError(f"{inside!r} is no path inside {target.name}")
    place = os.path.realpath(known[number])
    path = os.path.realpath(os.path.join(place, *parts))
    if not _is_below(path, place) or not is_inside_project(path):
        raise NotShownError(f"{os.path.join(target.name, *parts)} leads out of the project: not shown")
    if not os.path.exists(path):
        raise NotThereYetError(f"{os.path.join(target.name, *parts)} is not there yet")
    return path


def is_inside_project(path: str) -> bool:
    """Whether a real path lies in the project; its work and output folders may be links to a larger disk."""
    roots = (gs.BASE_DIR, gs.WORK_DIR, gs.OUTPUT_DIR)
    return any(_is_below(path, os.path.realpath(root)) for root in roots)


def _is_below(path: str, root: str) -> bool:
    return path == root or path.startswith(root.rstrip("/") + "/")


def show(path: str) -> dict[str, Any]:
    """Return what is shown of a file or folder, as plain data.

    Args:
        path: what :func:`locate` returned.

    Returns:
        ``kind`` (``folder``, ``image``, ``markdown``, ``table``, ``text``, ``binary``) and what belongs to
        it; ``bytes``: its size.

    Raises:
        NotShownError: it is neither file nor folder.
    """
    status = os.stat(path)
    if stat.S_ISDIR(status.st_mode):
        return {"kind": "folder", "names": _names(path)}
    if not stat.S_ISREG(status.st_mode):
        raise NotShownError(f"{os.path.basename(path)} is no file")
    size = status.st_size
    suffix = os.path.splitext(path)[1].lower()
    if suffix in IMAGES:
        return {"kind": "image", "bytes": size}
    with open(path, "rb") as file:
        content = file.read(_MOST_BYTES)
    if b"\0" in content:
        return {"kind": "binary", "bytes": size}
    text = content.decode(errors="replace")
    more = {"bytes": size, "cut": size > len(content)}
    if suffix == ".md":
        return {"kind": "markdown", "text": text, **more}
    if suffix in _DELIMITERS:
        return {"kind": "table", "rows": _rows(text, _DELIMITERS[suffix]), **more}
    return {"kind": "text", "text": text, **more}


def _rows(text: str, delimiter: str) -> list[list[str]]:
    rows = csv.reader(text.splitlines(), delimiter=delimiter)
    try:
        return [row for row, _ in zip(rows, range(_MOST_ROWS), strict=False)]
    except csv.Error as error:  # e.g. a field longer than any table has
        raise NotShownError(f"this is no table: {error}") from error


def _names(path: str) -> list[dict[str, Any]]:
    entries = sorted(os.scandir(path), key=lambda entry: entry.name)[:_MOST_NAMES]
    return [{"name": entry.name, "folder": entry.is_dir()} for entry in entries]
