"""Score against the scaling factor, or against what else a table varies, as PNG."""

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

_Point = tuple[float, Line]
"""Place on the horizontal axis, and what lies there."""


def draw(table: Table, file: Path) -> None:
    """Draw the mean over tasks: one curve with its 95 % band for each label that is varied.

    The horizontal axis is the table's parameter, logarithmic; without one it is the scaling factor, and
    lines without a scaling factor are horizontal (base, individual, multitask, average, ...). With one it is
    lines without the parameter that are.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8.0, 4.5), dpi=150, layout="constrained")
    axes = figure.add_subplot()
    curves, level = _curves(table)
    opacity = 0.15 if len(curves) <= 3 else 0.05  # many bands on top of each other hide the lines
    for (name, curve), colour, marker in zip(curves.items(), cycle(COLOURS), cycle(MARKERS)):
        _draw_curve(axes, name, curve, colour, marker, opacity)
    colours = cycle(COLOURS[len(curves) :] or COLOURS)
    for name, line in level:
        colour = next(colours) if line.kind == "merged" else "0.3"
        axes.axhline(100 * line.macro.value, color=colour, linestyle=DASHES[line.kind], label=name)
    if table.options.parameter is not None:
        axes.set_xscale("log")
    axes.set_xlabel(table.options.parameter or "scaling factor α")
    metric = table.options.metric
    axes.set_ylabel(f"mean over tasks, % {'right' if metric == 'accuracy' else metric.replace('_', ' ')}")
    axes.set_title(table.options.title)
    axes.grid(alpha=0.25)
    if not curves:
        axes.set_xticks([])
    figure.legend(loc="outside right upper", frameon=False, fontsize="small")
    # The version of matplotlib does not belong into a result: the same numbers give the same file.
    figure.savefig(file, metadata={"Software": None})


def _curves(table: Table) -> tuple[dict[str, list[_Point]], list[tuple[str, Line]]]:
    """The curves of the plot by name, points from left to right, and the lines that are horizontal."""
    by_parameter = table.options.parameter is not None
    several = {
        label
        for label in {line.label for line in table.lines}
        if len({line.scaling_factor for line in table.lines if line.label == label}) > 1
    }
    curves: dict[str, list[_Point]] = {}
    level = []
    for line in table.lines:
        place = line.parameter if by_parameter else line.scaling_factor
        tells_factor = by_parameter and line.label in several
        name = f"{line.label}, α = {line.scaling_factor}" if tells_factor else line.label
        if place is None:
            level.append((name, line))
        else:
            curves.setdefault(name, []).append((place, line))
    return {name: sorted(points, key=lambda point: point[0]) for name, points in curves.items()}, level


def _draw_curve(axes: Axes, name: str, curve: list[_Point], colour: str, marker: str, opacity: float) -> None:
    places = [place for place, _ in curve]
    low, high = ([100 * getattr(line.macro, side) for _, line in curve] for side in ("low", "high"))
    axes.fill_between(places, low, high, color=colour, alpha=opacity, linewidth=0)
    if len(curve) == 1:  # a band of no width is invisible
        axes.vlines(places, low, high, color=colour, alpha=0.4)
    values = [100 * line.macro.value for _, line in curve]
    axes.plot(places, values, color=colour, marker=marker, markersize=5, label=name)
