"""One model on many tasks: metrics with intervals, and every prediction kept."""

from __future__ import annotations

import contextlib
import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import torch

from merging import models, tasks
from merging.adaptation import attachments
from merging.data import encoded, splits
from merging.errors import DataError, DiskSpaceError, OptionError
from merging.evaluation import metrics
from merging.evaluation.options import EvaluationOptions, PredictionOptions
from merging.files.checkpoints import open_checkpoint
from merging.files.publishing import is_disk_full, published_folder
from merging.merge import heads
from merging.options import parse
from merging.tasks import OpenLabels, TaskType, WithRecords, WithTexts

if TYPE_CHECKING:
    import datasets
    from torch import Tensor

_FILE_NAME = re.compile(r"[\w.+-]+")

T = TypeVar("T")


def evaluate(
    *,
    task_type: str,
    model: str | os.PathLike[str],
    data: Mapping[str, Any],
    options: Mapping[str, Any],
    out: str | os.PathLike[str],
) -> None:
    """Evaluate a model and publish ``metrics.json`` and ``predictions/<task>.jsonl``.

    Runs on the GPU if there is one. A merged model that keeps a head for each task (``Policy.head``) is
    evaluated on each task with the task's own.

    Args:
        task_type: a file in ``tasks/``.
        model: model folder.
        data: test set of each task; see :func:`merging.data.splits.check_dataset`.
        options: fields of :class:`merging.evaluation.options.EvaluationOptions`.
        out: folder to publish.

    Raises:
        MergingError: its subclasses; all data are checked before the first example is run.
    """
    evaluator = Evaluator(task_type=task_type, model=model, data=data, options=options)
    with published_folder(out) as temporary:
        evaluator.run(predictions=temporary / "predictions", metrics_file=temporary / "metrics.json")


class Evaluator:
    """One or more models of one architecture on many tasks; the data are read and encoded once."""

    def __init__(
        self,
        *,
        task_type: str,
        model: str | os.PathLike[str],
        data: Mapping[str, Any],
        options: Mapping[str, Any],
        heads_from: Mapping[str, str | os.PathLike[str]] | None = None,
    ) -> None:
        """Read and check everything; arguments as for :func:`evaluate`.

        Args:
            task_type: a file in ``tasks/``.
            model: model folder; its config and processor are used for weights in memory, too.
            data: test set of each task.
            options: fields of :class:`merging.evaluation.options.EvaluationOptions`.
            heads_from: model folder by task whose head it is evaluated with; by default those that ``model``
                keeps.
        """
        self._options = parse(EvaluationOptions, options, owner="evaluation")
        self._task = tasks.load(task_type)
        if not data:
            raise OptionError("evaluation: data names no task. Give at least one test set.")
        for name in data:
            if not _FILE_NAME.fullmatch(name):
                raise OptionError(
                    f"evaluation: a task is also a file name; {name!r} holds other than letters, digits, _.+-"
                )
        self._data = dict(sorted(data.items()))
        self._folder = models.locate(model)
        self._heads = {task: os.fspath(folder) for task, folder in (heads_from or {}).items()}
        self._processor = self._task.load_processor(model=self._folder)
        self._rows = {}
        self._label_names = {}
        for name, dataset in self._data.items():
            self._label_names[name] = labels = self._task.label_names(splits.load(dataset))
            if labels and not isinstance(self._task, OpenLabels):
                _check_labels(name, labels, models.stored_label_names(self._head_of(name)), self._folder)
            self._rows[name] = encoded.load(
                dataset,
                task_type=task_type,
                processor=self._processor,
                max_tokens=self._options.max_tokens,
            )

    def run(
        self,
        tensors: Mapping[str, Tensor] | None = None,
        *,
        predictions: Path | None = None,
        metrics_file: Path | None = None,
    ) -> dict[str, Any]:
        """Evaluate one set of weights.

        Args:
            tensors: weights in place of the model's own, under the names that they have in its files.
            predictions: folder to make, with every prediction of each task.
            metrics_file: JSON file to write.

        Returns:
            By task: by metric value, low and high; and ``num_examples``.
        """
        results = {}
        networks: dict[str, Any] = {}
        if predictions is not None:
            predictions.mkdir()
        for name, rows in self._rows.items():
            folder = self._head_of(name)
            if folder not in networks:
                networks = {folder: self._load(folder, tensors)}  # one at a time in memory
            network = networks[folder]
            beside: AbstractContextManager[None] = contextlib.nullcontext()
            if tensors is None:
                beside = attachments.corrected(network, self._folder, name)
            if isinstance(self._task, OpenLabels):
                self._task.set_label_names(network, self._label_names[name])
            names = self._options.metrics or self._task.METRICS
            with beside:
                records = _records(
                    self._task,
                    network,
                    self._processor,
                    rows,
                    batch_size=self._options.batch_size,
                    label_names=self._label_names[name],
                )
                if isinstance(self._task, WithTexts) and any(map(metrics.reads_predictions, names)):
                    texts = _texts(self._task, network, self._processor, rows, self._options)
                    for record, text in zip(records, texts, strict=True):
                        record["prediction"] = text
            results[name] = _measure(records, names, self._options)
            references = [record.pop("reference") for record in records]
            if predictions is not None:
                ids = splits.ids(self._data[name])
                labelled = (
                    {"id": id, "label": reference, **record}
                    for id, reference, record in zip(ids, references, records, strict=True)
                )
                _write_lines(predictions / f"{name}.jsonl", labelled)
        if metrics_file is not None:
            metrics_file.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
        return results

    def _head_of(self, task: str) -> str:
        """The folder whose config and head a task is evaluated with."""
        return self._heads.get(task) or heads.folder_of(self._folder, task)

    def _load(self, folder: str, tensors: Mapping[str, Tensor] | None) -> Any:
        """The network with the head that lies in ``folder``."""
        own = tensors is None
        if tensors is None and folder != self._folder:
            checkpoint = open_checkpoint(self._folder, label="model")
            tensors = {name: checkpoint.read(name) for name in checkpoint.tensors}
        if tensors is not None and folder != self._folder:
            tensors = heads.with_head(tensors, folder)
        network = self._task.load_model(folder, tensors=tensors)
        if own:
            attachments.complete(network, self._folder)
        return network


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
    attachments.complete(network, folder)
    if isinstance(data, str | os.PathLike):
        rows, ids = _rows_of_file(Path(data), task)
    else:
        rows, ids = splits.load(data), splits.ids(data)
    task.check(rows, labelled=False)
    if "label" in rows.column_names:
        rows = rows.remove_columns("label")
    inputs = encoded.encode(rows, task_type=task_type, processor=processor, max_tokens=parsed.max_tokens)
    if isinstance(task, WithTexts):
        texts = _texts(task, network, processor, inputs, parsed)
        records: list[dict[str, Any]] = [{"prediction": text} for text in texts]
    else:
        records = _records(
            task,
            network,
            processor,
            inputs,
            batch_size=parsed.batch_size,
            label_names=models.label_names(network),
        )
    for record in records:
        record.pop("reference", None)  # rows without labels have stand-ins where something is predicted
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


def _records(
    task: TaskType,
    network: Any,
    processor: Any,
    rows: datasets.Dataset,
    *,
    batch_size: int,
    label_names: Sequence[str],
) -> list[dict[str, Any]]:
    """Return one record for each row, in order, with ``reference`` where rows have labels.

    Rows are run longest first, so padding is rare.
    """
    device = _device()
    network = network.to(device)
    order = _longest_first(rows)
    batches: list[np.ndarray] = []
    made: list[dict[str, Any]] = []
    with torch.inference_mode():
        for some in _batches(rows, order, batch_size):
            collated = task.collate(some, processor)
            batch = {key: value.to(device) for key, value in collated.items()}
            if isinstance(task, WithRecords):
                made += task.records(network, batch, processor, label_names)
            else:
                batch.pop("labels", None)
                batches.append(task.scores(network, batch).float().cpu().numpy())
    if batches:
        made = _records_of_scores(task, np.concatenate(batches), label_names)
    told = next((name for name in ("reference", "labels") if name in rows.column_names), None)
    if told == "reference" or (batches and told):
        truth = rows[told][:]
        made = [{**record, "reference": truth[place]} for record, place in zip(made, order, strict=True)]
    return _in_order(made, order)


def _texts(
    task: WithTexts, network: Any, processor: Any, rows: datasets.Dataset, options: PredictionOptions
) -> list[str]:
    """Return what a model writes for each row, in order."""
    network = network.to(_device())
    order = _longest_first(rows)
    made: list[str] = []
    with torch.inference_mode():
        for some in _batches(rows, order, options.batch_size):
            made += task.generate(network, some, processor, max_new_tokens=options.max_new_tokens)
    return _in_order(made, order)


def _device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def _longest_first(rows: datasets.Dataset) -> np.ndarray:
    if "length" not in rows.column_names:
        return np.arange(len(rows))
    return np.argsort(-np.asarray(rows["length"][:]), kind="stable")


def _batches(rows: datasets.Dataset, order: np.ndarray, batch_size: int) -> Iterator[list[dict[str, Any]]]:
    for start in range(0, len(order), batch_size):
        columns = rows[order[start : start + batch_size]]
        yield [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]


def _in_order(made: Sequence[T], order: np.ndarray) -> list[T]:
    """Undo an order: what was made for row ``order[i]`` stands at i."""
    places = np.empty(len(order), dtype=int)
    places[order] = np.arange(len(order))
    return [made[place] for place in places]


def _records_of_scores(
    task: TaskType, scores: np.ndarray, label_names: Sequence[str]
) -> list[dict[str, Any]]:
    """Return the records of (N, C) scores, in their order."""
    if not np.isfinite(scores).all():
        raise DataError(
            "the model gives NaN or infinite scores; its weights are finite but far too large. "
            "Train it again, with a smaller learning rate."
        )
    return task.predictions(scores, label_names)


def _measure(
    records: Sequence[Mapping[str, Any]], names: Sequence[str], options: EvaluationOptions
) -> dict[str, Any]:
    """Return the entry of one task in ``metrics.json``."""
    entry: dict[str, Any] = {}
    for name in names:
        predictions, references = metrics.columns(name, records)
        low, high = metrics.interval(
            name, predictions, references, num_samples=options.bootstrap_samples, seed=options.seed
        )
        entry[name] = {"value": metrics.compute(name, predictions, references), "low": low, "high": high}
    entry["num_examples"] = len(records)
    return entry


def _write_lines(file: Path, records: Iterable[Mapping[str, Any]]) -> None:
    with file.open("w", encoding="utf-8") as stream:
        for record in records:
            stream.write(json.dumps(record, ensure_ascii=False) + "\n")
