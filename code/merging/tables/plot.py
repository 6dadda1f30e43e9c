"""Score against the scaling factor, as PNG."""

from __future__ import annotations

from itertools import cycle
from pathlib import Path
from typing import TYPE_CHECKING

from merging.tables.summary import Line, Table

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#8C564B", "#000000")
"""Okabe and Ito's palette: told apart by colour-blind readers."""
MARKERS = "osD^vP*X"
DASHES = {"base": ":", "individual": (0, (1, 3)), "multitask": "-.", "merged": "--"}


def draw(table: Table, file: Path) -> None:
    """Draw the mean over tasks: one line with its 95 % band for each label that has scaling factors.

    Lines without a scaling factor (base, individual, multitask, average, ...) are horizontal.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8.0, 4.5), dpi=150, layout="constrained")
    axes = figure.add_subplot()
    swept = [line for line in table.lines if line.scaling_factor is not None]
    labels = list(dict.fromkeys(line.label for line in swept))
    opacity = 0.15 if len(labels) <= 3 else 0.05  # many bands on top of each other hide the lines
    for label, colour, marker in zip(labels, cycle(COLOURS), cycle(MARKERS)):
        _draw_sweep(axes, [line for line in swept if line.label == label], colour, marker, opacity)
    colours = cycle(COLOURS[len(labels) :] or COLOURS)
    for line in table.lines:
        if line.scaling_factor is None:
            colour = next(colours) if line.kind == "merged" else "0.3"
            axes.axhline(100 * line.macro.value, color=colour, linestyle=DASHES[line.kind], label=line.label)
    axes.set_xlabel("scaling factor α")
    axes.set_ylabel("mean over tasks, % right")
    axes.set_title(table.options.title)
    axes.grid(alpha=0.25)
    if not swept:
        axes.set_xticks([])
    figure.legend(loc="outside right upper", frameon=False, fontsize="small")
    # The version of matplotlib does not belong into a result: the same numbers give the same file.
    figure.savefig(file, metadata={"Software": None})


def _draw_sweep(axes: Axes, lines: list[Line], colour: str, marker: str, opacity: float) -> None:
    lines = sorted(lines, key=lambda line: line.scaling_factor or 0.0)
    factors = [line.scaling_factor or 0.0 for line in lines]
    low, high = ([100 * getattr(line.macro, side) for line in lines] for side in ("low", "high"))
    axes.fill_between(factors, low, high, color=colour, alpha=opacity, linewidth=0)
    if len(lines) == 1:  # a band of no width is invisible
        axes.vlines(factors, low, high, color=colour, alpha=0.4)
    values = [100 * line.macro.value for line in lines]
    axes.plot(factors, values, color=colour, marker=marker, markersize=5, label=lines[0].label)
