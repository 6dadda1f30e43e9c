"""One estimate from end to end: a model folder and a training set in, a Hessian folder out."""

from __future__ import annotations

import dataclasses
import json
import os
import platform
import time
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import datasets
import torch
import transformers
from torch import Tensor

from merging import hessians, tasks
from merging.data import encoded, splits
from merging.errors import DataError, MergingError
from merging.files.checkpoints import check_disk_space, open_checkpoint, weights_hash
from merging.files.publishing import published_folder
from merging.hessians import _categorical, _distributions
from merging.hessians._per_example import Cotangents
from merging.hessians._statistics import open_sums
from merging.hessians.artifact import HessianRecord, write_hessian
from merging.options import check_seed

_PROGRESS_INTERVAL_S = 1.0


def estimate(
    *,
    estimator: str,
    task_type: str,
    model: str | os.PathLike[str],
    data: Any,
    options: Mapping[str, Any],
    seed: int,
    out: str | os.PathLike[str],
    progress: str | os.PathLike[str] | None = None,
) -> None:
    """Estimate a statistic of a model's curvature and publish it as a folder.

    Runs on the GPU if there is one. The result does not depend on ``batch_size`` but for rounding.

    Args:
        estimator: a file in ``hessians/``.
        task_type: a file in ``tasks/``.
        model: model folder.
        data: the model's training set; see :func:`merging.data.splits.check_dataset`. Its size is recorded,
            however few of its examples are seen.
        options: fields of :class:`merging.hessians.options.HessianOptions`.
        seed: of the choice of examples and of drawn labels, in 0..2**32 - 1.
        out: folder to publish; one that is there is replaced at the end.
        progress: file to which a JSON line is added every second.

    Raises:
        MergingError: its subclasses, before compute where that is possible.
    """
    started = time.monotonic()
    parsed = hessians.check_call(estimator, options)
    check_seed(seed, owner=estimator)
    method, task = hessians.load(estimator), tasks.load(task_type)
    distribution = _distributions.load(tasks.label_distribution(task))
    model = os.fspath(model)
    checkpoint = open_checkpoint(model, label="model")
    network = task.load_model(model)
    processor = task.load_processor(model=model)
    rows = encoded.load(
        data,
        task_type=task_type,
        processor=processor,
        max_tokens=parsed.max_tokens,
        labelled=method.NEEDS_LABELS,
    )
    label_names = _label_names(network)
    if method.NEEDS_LABELS:
        _check_label_names(label_names, task.label_names(splits.load(data)))
    sums = open_sums(method.STATISTIC, network.to(_device()), task.scores, parsed, checkpoint)
    Path(out).resolve().parent.mkdir(parents=True, exist_ok=True)
    check_disk_space(Path(out).resolve().parent, sums.num_bytes())

    chosen = _choose(rows, parsed.max_examples, seed)
    report = _Progress(progress, num_examples=len(chosen))
    for examples in _batches(rows, chosen, parsed.batch_size):
        batch = task.collate([rows[index] for index in examples], processor)
        inputs = {key: value.to(_device()) for key, value in batch.items()}
        labels = inputs.pop("labels", None)
        cotangents: Cotangents = partial(
            method.cotangents,
            labels=labels,
            examples=examples,
            num_samples=parsed.num_samples,
            seed=seed,
            distribution=distribution,
        )
        if parsed.kfac_scale == "reference":
            cotangents = partial(_categorical.averaged, cotangents, labels=labels)
        sums.add(inputs, cotangents)
        report.advance(len(examples))

    tensors = sums.tensors()
    _check_finite(tensors)
    record = HessianRecord(
        estimator=estimator,
        task_type=task_type,
        num_examples=sums.num_examples,
        num_train_examples=len(rows),
        model_hash=weights_hash(model),
        model=model,
        data=splits.describe(data),
        seed=seed,
        options=dataclasses.asdict(parsed),
        label_names=label_names,
        without_gradient=tuple(sorted(name for name, value in tensors.items() if not value.any())),
        seconds=round(time.monotonic() - started, 3),
        versions=_versions(),
        statistic=method.STATISTIC,
        **sums.record(),
    )
    with published_folder(out) as folder:
        write_hessian(folder, tensors, record)


class _Progress:
    """Appends a JSON line to a file about once a second; without a file it does nothing.

    ``step`` and ``total_steps`` count examples.
    """

    def __init__(self, file: str | os.PathLike[str] | None, *, num_examples: int) -> None:
        self._file = Path(file) if file is not None else None
        self._total = num_examples
        self._done = 0
        self._started = self._written = time.monotonic()

    def advance(self, num_examples: int) -> None:
        """Count examples that are done."""
        self._done += num_examples
        now = time.monotonic()
        if self._file is None or (now - self._written < _PROGRESS_INTERVAL_S and self._done < self._total):
            return
        self._written = now
        speed = self._done / max(now - self._started, 1e-9)
        line = {
            "step": self._done,
            "total_steps": self._total,
            "examples_per_s": round(speed, 2),
            "seconds_left": round((self._total - self._done) / speed, 1),
        }
        with self._file.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(line) + "\n")


def _choose(rows: datasets.Dataset, max_examples: int | None, seed: int) -> list[int]:
    """Places of the examples to be seen: all, or a stratified sample without replacement."""
    if max_examples is None or max_examples >= len(rows):
        return list(range(len(rows)))
    labels = rows["labels"][:] if "labels" in rows.column_names else None
    if labels is not None and not isinstance(labels[0], int):  # a label for each position makes no strata
        labels = None
    return [int(place) for place in splits.permutation(labels, len(rows), seed)[:max_examples]]


def _batches(rows: datasets.Dataset, chosen: Sequence[int], batch_size: int) -> Iterator[list[int]]:
    """Batches of examples of like length, long ones first: what does not fit into memory fails at once."""
    lengths = rows["length"][:] if "length" in rows.column_names else [0] * len(rows)
    order = sorted(chosen, key=lambda place: (-lengths[place], place))
    for start in range(0, len(order), batch_size):
        yield order[start : start + batch_size]


def _device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def _label_names(network: transformers.PreTrainedModel) -> tuple[str, ...]:
    """Classes of a model's head, in order."""
    names = network.config.id2label
    return tuple(names[index] for index in sorted(names))


def _check_label_names(model: Sequence[str], data: Sequence[str]) -> None:
    """Raise unless the labels of the data mean the model's classes."""
    if data and tuple(model) != tuple(data):
        raise DataError(
            f"the model's classes are {list(model)}, the labels of the data {list(data)}. Names and order "
            "must agree where given labels are used; fisher_mc and fisher_exact do not use them."
        )


def _check_finite(tensors: Mapping[str, Tensor]) -> None:
    for name, tensor in tensors.items():
        if not tensor.isfinite().all():
            raise MergingError(
                f"the estimate for {name!r} is not finite: squares of its gradients overflow. The model has "
                "probably diverged in training."
            )


def _versions() -> dict[str, str]:
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }
