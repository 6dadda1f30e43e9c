"""Reading a progress file: JSON lines that a running step appends to. Cheap, for whoever watches."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

_TAIL_BYTES = 4096
_TERMINAL_INTERVAL_S = 1.0
_LOG_INTERVAL_S = 30.0


def last(file: str | os.PathLike[str]) -> dict[str, Any] | None:
    """Return the newest complete line, None while there is none; reads only the end of the file."""
    try:
        with Path(file).open("rb") as stream:
            stream.seek(max(0, stream.seek(0, os.SEEK_END) - _TAIL_BYTES))
            tail = stream.read()
    except FileNotFoundError:
        return None
    for line in reversed(tail.split(b"\n")[:-1]):  # what follows the last newline is still being written
        try:
            entry = json.loads(line)
        except ValueError:  # the first line of the tail may be cut
            continue
        if isinstance(entry, dict):
            return entry
    return None


def fraction(entry: dict[str, Any] | None) -> float | None:
    """``step / total_steps`` of a line, 0..1; None where it does not say."""
    if not entry or not entry.get("total_steps"):
        return None
    return min(1.0, float(entry["step"]) / float(entry["total_steps"]))


def describe(entry: dict[str, Any] | None) -> str | None:
    """One line for people: "step 120/300, epoch 1.2, loss 0.31, 85 examples/s, 2 min left"."""
    if not entry:
        return None
    parts = []
    if "step" in entry:
        parts.append(f"step {entry['step']}/{entry.get('total_steps', '?')}")
    if entry.get("epoch") is not None:
        parts.append(f"epoch {entry['epoch']:.1f}")
    if entry.get("loss") is not None:
        parts.append(f"loss {entry['loss']:.3g}")
    if entry.get("examples_per_s") is not None:
        parts.append(f"{entry['examples_per_s']:.3g} examples/s")
    if entry.get("seconds_left") is not None:
        parts.append(f"{_duration(entry['seconds_left'])} left")
    return ", ".join(parts) or None


@contextmanager
def shown(file: str | os.PathLike[str], stream: TextIO, *, interval_s: float | None = None) -> Iterator[None]:
    """Show what a progress file says while the block runs: a moving line on a terminal, else one at times.

    Args:
        file: the progress file; need not exist yet.
        stream: where to write, usually standard error.
        interval_s: seconds between looks; None: 1 on a terminal, 30 elsewhere.
    """
    moving = stream.isatty()
    pause = interval_s or (_TERMINAL_INTERVAL_S if moving else _LOG_INTERVAL_S)
    stop = threading.Event()
    before = describe(last(file))  # what an earlier run has left
    watcher = threading.Thread(
        target=_watch, args=(Path(file), stream, moving, pause, stop, before), daemon=True
    )
    watcher.start()
    try:
        yield
    finally:
        stop.set()
        watcher.join()


def _watch(
    file: Path, stream: TextIO, moving: bool, pause: float, stop: threading.Event, before: str | None
) -> None:
    while not stop.wait(pause):
        text = describe(last(file))
        if text and text != before:
            stream.write(f"\r\x1b[K{text}" if moving else f"{text}\n")
            stream.flush()
            before = text
    if moving:
        stream.write("\r\x1b[K")
        stream.flush()


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
