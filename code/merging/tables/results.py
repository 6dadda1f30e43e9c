"""Evaluation folders to arrays of what each example adds, with every check that a fair comparison needs."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from merging.errors import DataError, OptionError
from merging.evaluation import metrics
from merging.tables.rows import LineKey, Row, describe, lines, seeds

Array = NDArray[np.float64]

ACCURACY = "accuracy"
"""The metric that is a mean over examples: of several seeds, too."""


@dataclass(frozen=True)
class Predictions:
    """What one model said about one test set."""

    labels: tuple[Any, ...]
    counts: Array
    """What each example adds to the sums that make the metric, (examples, K); of accuracy, 1 if right."""


@dataclass(frozen=True)
class Results:
    """What every line, seed and task adds to the metric."""

    counts: dict[LineKey, dict[str, Array]]
    """line -> task -> array (seeds, examples, K); lines in table order, tasks sorted."""
    tasks: list[str]
    seeds: list[int]
    num_examples: dict[str, int]


def read_results(rows: Sequence[Row], metric: str) -> Results:
    """Read the predictions behind every row.

    Raises:
        OptionError: a metric that no table can show.
        DataError: a missing or damaged file, one task twice in a line, lines with different tasks, or test
            sets that differ between lines.
    """
    if metric != ACCURACY and not metrics.is_share(metric):
        raise OptionError(
            f"table: {metric} is no share, and tables show percent. Take the main metric of the task type, "
            "or read metrics.json."
        )
    found = {key: _read_line([row for row in rows if row.key == key], metric) for key in lines(rows)}
    first_key, first = next(iter(found.items()))
    tasks = sorted({task for task, _ in first})
    labels = {task: first[task, seeds(rows)[0]].labels for task in tasks}
    for key, cells in found.items():
        _check_line(key, cells, first_key, labels)
    return Results(
        counts={
            key: {task: np.stack([cells[task, seed].counts for seed in seeds(rows)]) for task in tasks}
            for key, cells in found.items()
        },
        tasks=tasks,
        seeds=seeds(rows),
        num_examples={task: len(labels[task]) for task in tasks},
    )


def read_predictions(folder: Path, metric: str) -> dict[str, Predictions]:
    """Read ``predictions/<task>.jsonl`` of an evaluation folder.

    Raises:
        DataError: the folder, a file or a line is not what an evaluation writes.
    """
    files = sorted((folder / "predictions").glob("*.jsonl"))
    if not files:
        raise DataError(
            f"{folder} holds no predictions/<task>.jsonl. Give the folder that an evaluation has written."
        )
    return {file.stem: _read_file(file, metric) for file in files}


def _read_file(file: Path, metric: str) -> Predictions:
    labels, correct, records = [], [], []
    for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), start=1):
        try:
            example = json.loads(line)
            label, prediction = example["label"], example["prediction"]
        except (json.JSONDecodeError, KeyError, TypeError) as error:
            raise DataError(
                f"{file}, line {number}: expected a JSON object with 'label' and 'prediction', "
                f"got {line[:80]!r}. Evaluate again."
            ) from error
        labels.append(tuple(label) if isinstance(label, list) else label)
        correct.append(label == prediction)
        records.append({**example, "reference": label})
    if not labels:
        raise DataError(f"{file} is empty. Evaluate on at least one example.")
    if metric == ACCURACY:
        return Predictions(tuple(labels), np.array(correct, dtype=np.float64)[:, None])
    try:
        columns = metrics.columns(metric, records)
    except KeyError as error:
        raise DataError(
            f"{file}: its examples have no {error}, which {metric} is made of. Is it of another task type?"
        ) from error
    return Predictions(tuple(labels), metrics.counts(metric, *columns).astype(np.float64))


def _read_line(rows: Sequence[Row], metric: str) -> dict[tuple[str, int], Predictions]:
    """All predictions of one line, by task and seed."""
    cells: dict[tuple[str, int], Predictions] = {}
    for row in rows:
        for task, predictions in read_predictions(Path(row.evaluation), metric).items():
            if (task, row.seed) in cells:
                raise DataError(
                    f"line {describe(row.key)} has task {task!r} twice with seed {row.seed}. "
                    "Lines that differ need different labels."
                )
            cells[task, row.seed] = predictions
    return cells


def _check_line(
    key: LineKey,
    cells: dict[tuple[str, int], Predictions],
    first_key: LineKey,
    labels: dict[str, tuple[Any, ...]],
) -> None:
    """Refuse to compare a line with the first one when they have seen different test examples."""
    for seed in sorted({seed for _, seed in cells}):
        tasks = sorted(task for task, of_seed in cells if of_seed == seed)
        if tasks != sorted(labels):
            raise DataError(
                f"line {describe(key)} has tasks {tasks} with seed {seed}, but {describe(first_key)} has "
                f"{sorted(labels)}. Evaluate every line on the same tasks."
            )
        for task in tasks:
            if cells[task, seed].labels != labels[task]:
                raise DataError(
                    f"line {describe(key)}, seed {seed}: the labels of task {task!r} are not those of "
                    f"{describe(first_key)} ({len(cells[task, seed].labels)} and {len(labels[task])} "
                    "examples). Paired intervals need the same test examples in the same order."
                )
