"""A Hessian folder for people: tables for the terminal, and a plot."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from merging.errors import CheckpointError, OptionError
from merging.files.fingerprint import PREFIX
from merging.files.sizes import size_text
from merging.hessians.artifact import HessianRecord, StoredHessian, folders_of

if TYPE_CHECKING:
    from rich.console import RenderableType

_CONVERGED = 0.2
"""Half change below which more examples hardly matter: a relative error of about a tenth."""
_BAR_WIDTH = 24
_NAME_WIDTH = 30
_COLOURS = ("#0072B2", "#D55E00")
_MAX_HASH = 12


def open_all(folder: str) -> dict[str, StoredHessian]:
    """Open a Hessian folder, or each of those that it holds, by estimator.

    Raises:
        CheckpointError: it is none and holds none, or one is damaged.
    """
    inside = folders_of(folder)
    if not inside:
        found = StoredHessian(folder, label="hessian")
        return {found.record.estimator: found}
    return {name: StoredHessian(place, label=f"{folder}/{name}") for name, place in inside.items()}


def tables(stored: StoredHessian) -> Iterator[RenderableType]:
    """Yield what there is to say of a Hessian folder: its record, and its layers."""
    from rich.bar import Bar
    from rich.table import Table

    record = stored.record
    table = Table(title=f"{record.estimator} ({record.statistic})", show_header=False, title_justify="left")
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for key, text in _facts(stored):
        table.add_row(key, text)
    yield table
    report = record.report
    if not report.layers:
        return
    table = Table(title="layers", title_justify="left")
    are_short = max(map(len, report.layers)) <= _NAME_WIDTH
    table.add_column("layer", overflow="fold", no_wrap=are_short)
    table.add_column("total", justify="right", no_wrap=True)
    table.add_column("", max_width=_BAR_WIDTH)  # gets narrow before names are broken
    table.add_column("halves differ by", justify="right", no_wrap=True)
    table.add_column("zeros", justify="right", no_wrap=True)
    lengths = _bar_lengths([layer.total for layer in report.layers.values()])
    for (name, layer), length in zip(report.layers.items(), lengths, strict=True):
        change = _percent(layer.half_change)
        table.add_row(name, f"{layer.total:.3g}", Bar(_BAR_WIDTH, 0, length), change, _percent(layer.zeros))
    yield table


def verdict(record: HessianRecord) -> str:
    """What the difference between two halves of the examples says of an estimate."""
    change = record.report.half_change
    if change is None:
        return "unknown: halves of the examples were not compared"
    error = f"two halves of the examples differ by {_percent(change)}, so the error is about "
    error += f"{_percent(change / 2)}"
    if change <= _CONVERGED:
        return f"yes: {error}"
    times = math.ceil((change / _CONVERGED) ** 2)
    return f"not quite: {error}; about {times} times as many examples would bring it to 10 %"


def draw(record: HessianRecord, file: Path) -> None:
    """Draw the totals of the layers as bars on a logarithmic axis, and by how much the halves differ, as PNG.

    Raises:
        CheckpointError: the record has no report to draw.
        OptionError: the file cannot be written.
    """
    from matplotlib.figure import Figure

    layers = record.report.layers
    if not layers:
        raise CheckpointError(
            f"the estimate {record.estimator!r} of {record.model} has no report: it was made by an earlier "
            "version or by IVON. Estimate it again (`merging hessian`) to get one."
        )
    with_changes = any(layer.half_change is not None for layer in layers.values())
    width, height = 8.0, 1.2 + 0.22 * len(layers)  # in inches, as the margins
    figure = Figure(figsize=(width, height), dpi=120)
    axes, *others = figure.subplots(1, 1 + with_changes, sharey=True, squeeze=False)[0]
    left = min(0.3 + 0.075 * max(map(len, layers)), 0.6 * width)
    figure.subplots_adjust(
        left=left / width, right=1 - 0.2 / width, bottom=0.6 / height, top=1 - 0.4 / height, wspace=0.1
    )
    places = range(len(layers))
    axes.barh(places, [layer.total for layer in layers.values()], color=_COLOURS[0])
    if any(layer.total > 0 for layer in layers.values()):
        axes.set_xscale("log")
    axes.set_yticks(places, list(layers), fontsize="small")
    axes.invert_yaxis()
    axes.set_xlabel("trace of the curvature")
    for changes in others:
        values = [100 * (layer.half_change or 0.0) for layer in layers.values()]
        changes.barh(places, values, color=_COLOURS[1])
        changes.set_xlabel("halves differ by, %")
    for its in (axes, *others):
        its.grid(axis="x", alpha=0.25)
    figure.suptitle(f"{record.estimator}, {record.num_examples:,} examples", fontsize="medium")
    try:
        # The version of matplotlib does not belong into a result: the same numbers give the same file.
        figure.savefig(file, format="png", metadata={"Software": None})
    except OSError as error:
        raise OptionError(f"cannot write {file}: {error.strerror}. Choose another file.") from error


def _facts(stored: StoredHessian) -> Iterator[tuple[str, str]]:
    record, report = stored.record, stored.record.report
    yield "model", f"{record.model} (weights {record.model_hash.removeprefix(PREFIX)[:_MAX_HASH]})"
    for part in record.data or ():
        yield "data", f"{part['source']} {part['split']} ({part['content_hash'][:_MAX_HASH]})"
    yield "examples", f"{record.num_examples:,} seen of {record.num_train_examples:,} in the training set"
    yield "task type", record.task_type + (f": {', '.join(record.label_names)}" if record.label_names else "")
    yield "seed", str(record.seed)
    if record.options:
        yield "options", ", ".join(f"{key} {json.dumps(value)}" for key, value in record.options.items())
    tensors = stored.checkpoint.tensors
    num_bytes = sum(info.num_bytes for info in tensors.values())
    yield "stored", f"{len(tensors)} tensors, {size_text(num_bytes)}, means in float32"
    yield "in merges", f"times {record.default_scale:,.0f}, unless they are told otherwise"
    yield "converged?", verdict(record)
    if report.zeros is not None:
        yield "zeros", _percent(report.zeros)
    for key, names in (
        ("without gradient", record.without_gradient),
        ("without factors", [f"{name} ({why})" if why else name for name, why in record.uncovered.items()]),
        ("by vmap", record.by_vmap),
        ("one by one", record.by_loop),
    ):
        if names:
            yield key, ", ".join(names)
    yield "took", _resources(record)


def _resources(record: HessianRecord) -> str:
    report = record.report
    parts = [f"{record.seconds:,.1f} s"]
    if report.num_processes > 1:
        parts.append(f"{report.num_processes} processes")
    if report.peak_memory_bytes is not None:
        parts.append(f"{size_text(report.peak_memory_bytes)} of memory at most")
    if report.peak_gpu_bytes is not None:
        parts.append(f"{size_text(report.peak_gpu_bytes)} of the GPU's")
    return ", ".join(parts)


def _bar_lengths(totals: list[float]) -> list[int]:
    """Lengths on a logarithmic scale, from the smallest total to the largest."""
    logarithms = [math.log10(total) if total > 0 else None for total in totals]
    known = [value for value in logarithms if value is not None]
    if not known:
        return [0] * len(totals)
    low, span = min(known), (max(known) - min(known)) or 1.0
    return [0 if its is None else 1 + round((_BAR_WIDTH - 1) * (its - low) / span) for its in logarithms]


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.3g} %"
