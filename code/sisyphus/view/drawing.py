"""A graph as a picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from sisyphus.states import State
from sisyphus.view.layout import Box

if TYPE_CHECKING:
    from matplotlib.axes import Axes

FORMATS = ("svg", "png")

COLOURS: Mapping[str, str] = {
    State.FINISHED: "#b7e1b0",
    State.RUNNING: "#9ecae9",
    State.QUEUE: "#c6dbef",
    State.RUNNABLE: "#dfe8f2",
    State.WAITING: "#f2f2f2",
    State.HOLD: "#e3d3ec",
    State.UNKNOWN: "#ffe9a8",
    State.INTERRUPTED_RESUMABLE: "#ffe9a8",
    State.INTERRUPTED_NOT_RESUMABLE: "#fcc58f",
    State.QUEUE_ERROR: "#f4a6a0",
    State.RETRY_ERROR: "#f4a6a0",
    State.ERROR: "#f4a6a0",
}
"""Fill of a box, by state."""

_WIDTH, _HEIGHT = 2.4, 1.2
"""Of the cell of a box, in inches."""
_SHARE_X, _SHARE_Y = 0.9, 0.45
"""Of its cell that a box fills."""
_LONGEST = 34
_MOST_PIXELS = 30_000
"""Of one side of a PNG."""


def draw(boxes: Sequence[Box], path: str, kind: str) -> None:
    """Write a picture.

    Args:
        boxes: with layers and positions, see ``layout.arrange``.
        path: the file.
        kind: one of ``FORMATS``.
    """
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    width = _WIDTH * (max((box.position for box in boxes), default=0.0) + 1)
    height = _HEIGHT * (max((box.layer for box in boxes), default=0) + 1)
    figure = Figure(figsize=(width, height))
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_axis_off()
    axes.set_xlim(-0.5, width / _WIDTH - 0.5)
    axes.set_ylim(height / _HEIGHT - 0.5, -0.5)
    places = {box.key: box for box in boxes}
    for box in boxes:
        for creator in box.inputs:
            _draw_line(axes, places[creator], box)
    for box in boxes:
        _draw_box(axes, box)
    dpi = min(100.0, _MOST_PIXELS / max(width, height))
    # letters stay letters: they can be searched for; no date, so that two files can be compared
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": "sisyphus"}):
        figure.savefig(path, format=kind, dpi=dpi, metadata={"Date": None} if kind == "svg" else None)


def _draw_line(axes: Axes, upper: Box, lower: Box) -> None:
    from matplotlib.patches import PathPatch
    from matplotlib.path import Path

    begin, end = upper.layer + _SHARE_Y / 2, lower.layer - _SHARE_Y / 2
    bend = (end - begin) / 2
    path = Path(
        [
            (upper.position, begin),
            (upper.position, begin + bend),
            (lower.position, end - bend),
            (lower.position, end),
        ],
        [Path.MOVETO, Path.CURVE4, Path.CURVE4, Path.CURVE4],
    )
    axes.add_patch(PathPatch(path, fill=False, edgecolor="#888888", linewidth=0.8))


def _draw_box(axes: Axes, box: Box) -> None:
    """One box; that of several jobs has a stripe for each state, as wide as it is common."""
    from matplotlib.patches import Rectangle

    left, top = box.position - _SHARE_X / 2, box.layer - _SHARE_Y / 2
    total = sum(box.states.values())
    begin = left
    for state in [state for state in COLOURS if state in box.states]:
        share = _SHARE_X * box.states[state] / total
        axes.add_patch(Rectangle((begin, top), share, _SHARE_Y, facecolor=COLOURS[state], linewidth=0))
        begin += share
    axes.add_patch(Rectangle((left, top), _SHARE_X, _SHARE_Y, fill=False, edgecolor="#555555", linewidth=0.8))
    states = ", ".join(f"{state} {number}" if total > 1 else state for state, number in box.states.items())
    text = "\n".join(_fitting(line) for line in (*box.label, states))
    axes.text(box.position, box.layer, text, ha="center", va="center", fontsize=6.5, parse_math=False)


def _fitting(text: str) -> str:
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST // 2 - 1]}...{text[-_LONGEST // 2 + 2 :]}"
