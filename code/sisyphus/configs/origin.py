"""Where in the configs a job was made."""

from __future__ import annotations

import os
import sys
import types
from collections.abc import Iterator

from sisyphus import global_settings as gs

config_modules: set[str] = set()
"""Names of the modules that were loaded as configs."""

_PACKAGE = os.path.dirname(os.path.abspath(gs.__file__)) + os.sep

Origin = tuple[str, int, str]
"""File, line, function."""


def _frames_outside() -> Iterator[types.FrameType]:
    """Frames of the calling code, innermost first, without those of this package."""
    frame: types.FrameType | None = sys._getframe(1)
    while frame is not None:
        if not frame.f_code.co_filename.startswith(_PACKAGE):
            yield frame
        frame = frame.f_back


def find_origin() -> Origin | None:
    """Return the innermost line of a config that leads here, else the innermost line outside this package."""
    innermost = None
    for frame in _frames_outside():
        module = frame.f_globals.get("__name__", "")
        if module in config_modules or module.partition(".")[0] == gs.CONFIG_PREFIX:
            innermost = frame
            break
        innermost = innermost or frame
    if innermost is None:
        return None
    return innermost.f_code.co_filename, innermost.f_lineno, innermost.f_code.co_name


def show(origin: Origin | None) -> str:
    """Return e.g. ``config/quickstart.py:41 in py``; empty if the place is not known."""
    if origin is None:
        return ""
    file, line, function = origin
    file = file.removeprefix(gs.BASE_DIR + os.sep)
    return f"{file}:{line}" + ("" if function == "<module>" else f" in {function}")


def stack_lines(depth: float) -> list[str]:
    """Return at most ``depth`` frames outside this package, formatted as in tracebacks, innermost last."""
    import itertools
    import traceback

    limit = None if depth == float("inf") else int(depth)
    frames = [(frame, frame.f_lineno) for frame in itertools.islice(_frames_outside(), limit)]
    summary = traceback.StackSummary.extract(iter(reversed(frames)))
    return "".join(summary.format()).splitlines()
