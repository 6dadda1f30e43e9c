"""One model on many tasks: metrics with intervals, and every prediction kept."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from merging import models, tasks
from merging.data import encoded, splits
from merging.errors import DataError, DiskSpaceError, OptionError
from merging.evaluation import metrics
from merging.evaluation.options import EvaluationOptions, PredictionOptions
from merging.options import parse
from merging.publishing import is_disk_full, published_folder
from merging.tasks import TaskType

if TYPE_CHECKING:
    import datasets

_FILE_NAME = re.compile(r"[\w.+-]+")


def evaluate(
    *,
    task_type: str,
    model: str | os.PathLike[str],
    data: Mapping[str, Any],
    options: Mapping[str, Any],
    out: str | os.PathLike[str],
) -> None:
    """Evaluate a model and publish ``metrics.json`` and ``predictions/<task>.jsonl``.

    Runs on the GPU if there is one.

    Args:
        task_type: a file in ``tasks/``.
        model: model folder.
        data: test set of each task; see :func:`merging.data.splits.check_dataset`.
        options: fields of :class:`merging.evaluation.options.EvaluationOptions`.
        out: folder to publish.

    Raises:
        MergingError: its subclasses; all data are checked before the first example is run.
    """
    parsed = parse(EvaluationOptions, options, owner="evaluation")
    task = tasks.load(task_type)
    if not data:
        raise OptionError("evaluation: data names no task. Give at least one test set.")
    for name in data:
        if not _FILE_NAME.fullmatch(name):
            raise OptionError(
                f"evaluation: a task is also a file name; {name!r} holds other than letters, digits, _.+-"
            )
    folder = models.locate(model)
    network, processor = task.load_model(folder), task.load_processor(model=folder)
    label_names = models.label_names(network)
    test_sets = {}
    for name, dataset in sorted(data.items()):
        _check_labels(name, task.label_names(splits.load(dataset)), label_names, folder)
        test_sets[name] = encoded.load(
            dataset, task_type=task_type, processor=processor, max_tokens=parsed.max_tokens
        )
    with published_folder(out) as temporary:
        (temporary / "predictions").mkdir()
        results = {}
        for name, rows in test_sets.items():
            scores = _scores(task, network, processor, rows, parsed.batch_size)
            records = task.predictions(scores, label_names)
            results[name] = _measure(records, rows["labels"][:], parsed.metrics or task.METRICS, parsed)
            labelled = (
                {"id": id, "label": label, **record}
                for id, label, record in zip(splits.ids(data[name]), rows["labels"], records, strict=True)
            )
            _write_lines(temporary / "predictions" / f"{name}.jsonl", labelled)
        text = json.dumps(results, indent=2) + "\n"
        (temporary / "metrics.json").write_text(text, encoding="utf-8")


def predict(
    *,
    task_type: str,
    model: str | os.PathLike[str],
    data: Any,
    options: Mapping[str, Any],
    out: str | os.PathLike[str],
) -> None:
    """Write a model's predictions for data that need no labels as a JSON-lines file.

    Args:
        task_type: a file in ``tasks/``.
        model: model folder.
        data: what :func:`evaluate` takes for one task, or a Parquet, CSV, JSON-lines or Arrow file whose
            columns are named as ours (``text``, ``text_pair``, ``image``).
        options: fields of :class:`merging.evaluation.options.PredictionOptions`.
        out: file to write; appears complete or not at all.

    Raises:
        MergingError: its subclasses.
    """
    parsed = parse(PredictionOptions, options, owner="prediction")
    task = tasks.load(task_type)
    folder = models.locate(model)
    network, processor = task.load_model(folder), task.load_processor(model=folder)
    if isinstance(data, str | os.PathLike):
        rows, ids = _rows_of_file(Path(data), task)
    else:
        rows, ids = splits.load(data), splits.ids(data)
    task.check(rows, labelled=False)
    if "label" in rows.column_names:
        rows = rows.remove_columns("label")
    inputs = encoded.encode(rows, task_type=task_type, processor=processor, max_tokens=parsed.max_tokens)
    scores = _scores(task, network, processor, inputs, parsed.batch_size)
    records = task.predictions(scores, models.label_names(network))
    out = Path(out).resolve()
    out.parent.mkdir(parents=True, exist_ok=True)
    temporary = out.with_name(f".{out.name}.{os.getpid()}")
    try:
        _write_lines(temporary, ({"id": id, **record} for id, record in zip(ids, records, strict=True)))
        temporary.replace(out)
    except OSError as error:
        if is_disk_full(error):
            raise DiskSpaceError(f"no room left on the disk of {out}. Free some and run again.") from error
        raise
    finally:
        temporary.unlink(missing_ok=True)


def _rows_of_file(file: Path, task: TaskType) -> tuple[datasets.Dataset, list[str]]:
    """Read a file's input columns into memory; rows are named by their number."""
    from merging.data.download import read_inputs

    rows = read_inputs(file, (*task.COLUMNS, *task.OPTIONAL_COLUMNS))
    return rows, [str(row) for row in range(len(rows))]


def _check_labels(task: str, data: Sequence[str], model: Sequence[str], folder: str) -> None:
    if list(data) != list(model):
        raise DataError(
            f"task {task!r} has the labels {list(data)}, the model {folder} predicts {list(model)}. "
            "Evaluate with data whose labels are named and ordered alike (data/sources.py)."
        )


def _scores(
    task: TaskType, network: Any, processor: Any, rows: datasets.Dataset, batch_size: int
) -> np.ndarray:
    """Return logits, (N, C), in the order of the rows; they are run longest first, so padding is rare."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    network = network.to(device)
    order = np.arange(len(rows))
    if "length" in rows.column_names:
        order = np.argsort(-np.asarray(rows["length"][:]), kind="stable")
    batches = []
    with torch.inference_mode():
        for start in range(0, len(order), batch_size):
            columns = rows[order[start : start + batch_size]]
            batch = task.collate(
                [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)],
                processor,
            )
            inputs = {key: value.to(device) for key, value in batch.items() if key != "labels"}
            batches.append(task.scores(network, inputs).float().cpu().numpy())
    sorted_scores = np.concatenate(batches)
    if not np.isfinite(sorted_scores).all():
        raise DataError(
            "the model gives NaN or infinite scores; its weights are finite but far too large. "
            "Train it again, with a smaller learning rate."
        )
    scores = np.empty_like(sorted_scores)
    scores[order] = sorted_scores
    return scores


def _measure(
    records: Sequence[Mapping[str, Any]],
    labels: Sequence[int],
    names: Sequence[str],
    options: EvaluationOptions,
) -> dict[str, Any]:
    """Return the entry of one task in ``metrics.json``."""
    predictions = np.array([record["prediction"] for record in records])
    references = np.array(labels)
    entry: dict[str, Any] = {}
    for name in names:
        low, high = metrics.interval(
            name, predictions, references, num_samples=options.bootstrap_samples, seed=options.seed
        )
        entry[name] = {"value": metrics.compute(name, predictions, references), "low": low, "high": high}
    entry["num_examples"] = len(references)
    return entry


def _write_lines(file: Path, records: Iterable[Mapping[str, Any]]) -> None:
    with file.open("w", encoding="utf-8") as stream:
        for record in records:
            stream.write(json.dumps(record, ensure_ascii=False) + "\n")
