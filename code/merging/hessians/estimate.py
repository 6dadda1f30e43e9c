"""One estimate from end to end: a model folder and a training set in, Hessian folders out.

All statistics that are asked for share one forward pass over the data, and a backward pass where they are of
the same gradients. A killed estimate that is started again with the same arguments goes on from what it had
saved, and ends with the same bits. ``accelerate launch -m merging hessian ...`` shares the examples between
processes; the result is that of one process but for the order of summation.
"""

from __future__ import annotations

import dataclasses
import os
import platform
import shutil
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor

from merging import hessians, tasks
from merging.data import encoded, splits
from merging.errors import DataError, OptionError
from merging.files.checkpoints import check_disk_space
from merging.hessians import Estimator, _distributions, _examples
from merging.hessians._adding import Adder, add_all
from merging.hessians._processes import Processes, join
from merging.hessians._publishing import publish
from merging.hessians._saved_sums import SUMS_PATTERN, SavedSums
from merging.hessians._statistics import Sums, open_sums
from merging.hessians.artifact import HessianRecord
from merging.hessians.options import WITHOUT_INFLUENCE, HessianOptions
from merging.options import check_seed
from merging.sources import Source
from merging.sources.opening import open_parameters

PROGRESS_NAME = "progress.jsonl"
"""In the work folder: one JSON line a second."""


def estimate(
    *,
    estimator: str | None = None,
    statistics: Sequence[str] | None = None,
    task_type: str,
    model: str | os.PathLike[str],
    data: Any,
    options: Mapping[str, Any],
    seed: int,
    out: str | os.PathLike[str],
    work: str | os.PathLike[str] | None = None,
    save_interval_s: float = 300.0,
) -> None:
    """Estimate statistics of a model's curvature and publish them.

    Runs on the GPU if there is one. The result does not depend on ``batch_size`` but for rounding.

    Args:
        estimator: a file in ``hessians/``; ``out`` will be its Hessian folder.
        statistics: instead of it, several that share one pass; ``out`` will hold a Hessian folder of the name
            of each, with what it would hold by itself.
        task_type: a file in ``tasks/``.
        model: model folder, of safetensors or PyTorch files.
        data: the model's training set; see :func:`merging.data.splits.check_dataset`. Its size is recorded,
            however few of its examples are seen. Labels are looked at only if an estimator needs them.
        options: fields of :class:`merging.hessians.options.HessianOptions`.
        seed: of the choice of examples and of drawn labels, in 0..2**32 - 1.
        out: folder to publish; one that is there is replaced at the end.
        work: folder of the saved sums and ``progress.jsonl``; may hold those of a killed run of the same
            estimate. None: :func:`work_folder`, which is removed at the end.
        save_interval_s: sums are saved every so many seconds; no influence on the result.

    Raises:
        MergingError: its subclasses, before compute where that is possible.
    """
    started = time.monotonic()
    names = hessians.chosen(estimator, statistics)
    parsed = hessians.check_call(names, options)
    check_seed(seed, owner=", ".join(names))
    if not isinstance(save_interval_s, int | float) or save_interval_s < 0:
        raise OptionError(f"save_interval_s must be a number of seconds, 0 or more, got {save_interval_s!r}.")
    tasks.load(task_type)  # an unknown one is refused before anything is read
    processes = join()
    model = os.fspath(model)
    source = open_parameters(model, label="model")
    adder = _adder(
        {name: hessians.load(name) for name in names},
        parsed,
        task_type=task_type,
        model=model,
        data=data,
        seed=seed,
        processes=processes,
        source=source,
    )
    common: dict[str, Any] = {
        "task_type": task_type,
        "model_hash": source.digest(),
        "data": splits.describe(data),
        "seed": seed,
    }
    own_work, work = work is None, Path(work or work_folder(out)).resolve()
    num_copies = processes.count * (2 + parsed.compare_halves)  # the older one is kept while it is replaced
    _check_space(Path(out).resolve().parent, work, adder.sums.values(), num_copies=num_copies)
    saved = SavedSums(work, processes.rank, adder.sums, common | _identity(names, parsed, processes.count))
    rows = adder.rows
    chosen = _examples.by_length(rows, _examples.choose(rows, parsed.max_examples, seed))
    parts = _examples.halves(chosen, seed) if parsed.compare_halves else [chosen]

    def record(name: str, tensors: Mapping[str, Tensor]) -> HessianRecord:
        return HessianRecord(
            estimator=name,
            num_examples=adder.sums[name].num_examples,
            num_train_examples=len(rows),
            model=model,
            options=dataclasses.asdict(parsed),
            label_names=_label_names(adder.network),
            without_gradient=tuple(sorted(key for key, value in tensors.items() if not value.any())),
            seconds=round(seconds, 3),
            versions=_versions(),
            statistic=adder.methods[name].STATISTIC,
            **common,
            **adder.sums[name].record(),
        )

    try:
        seconds = add_all(
            adder,
            _examples.shares(parts, processes.rank, processes.count),
            saved,
            num_examples=len(chosen),
            progress=work / PROGRESS_NAME if processes.is_first else None,
            started=started,
            save_interval_s=save_interval_s,
        )
        publish(
            Path(out),
            adder.sums,
            saved if len(parts) == 2 else None,
            processes,
            record,
            in_folders=statistics is not None,
        )
    except BaseException:
        if own_work and not any(work.glob(SUMS_PATTERN)):  # there is nothing to go on from
            shutil.rmtree(work, ignore_errors=True)
        raise
    processes.wait()  # until the first one has published: whoever is killed before finds its sums again
    saved.remove()
    processes.wait()
    if own_work and processes.is_first:
        shutil.rmtree(work)


def work_folder(out: str | os.PathLike[str]) -> Path:
    """Where an estimate of ``out`` keeps its sums, unless it is told otherwise: beside it."""
    out = Path(out).resolve()
    return out.with_name(f"{out.name}.work")


def _adder(
    methods: Mapping[str, Estimator],
    options: HessianOptions,
    *,
    task_type: str,
    model: str,
    data: Any,
    seed: int,
    processes: Processes,
    source: Source,
) -> Adder:
    """Load model and data, and prepare the sums.

    Args:
        methods: estimators by name.
        options: of the estimate.
        task_type: see :func:`estimate`; so are ``model``, ``data`` and ``seed``.
        model: folder.
        data: training set.
        seed: of draws.
        processes: all that work at the estimate.
        source: tensors of the model's files.

    Raises:
        MergingError: its subclasses; model, data and estimators do not go together.
    """
    task = tasks.load(task_type)
    labelled = any(method.NEEDS_LABELS for method in methods.values())
    network = task.load_model(model)
    if isinstance(task, tasks.OpenLabels) and "label" in splits.load(data).column_names:
        task.set_label_names(network, task.label_names(splits.load(data)))
    processor = task.load_processor(model=model)
    with processes.first_goes_first():
        rows = encoded.load(
            data,
            task_type=task_type,
            processor=processor,
            max_tokens=options.max_tokens,
            labelled=labelled,
        )
    if labelled:
        _check_label_names(_label_names(network), task.label_names(splits.load(data)))
    return Adder(
        network=network.to(processes.device, getattr(torch, options.dtype)),
        task=task,
        processor=processor,
        rows=rows,
        methods=methods,
        sums=open_sums(methods, network, task.scores, options, source),
        distribution=_distributions.load(tasks.label_distribution(task)),
        options=options,
        seed=seed,
        device=processes.device,
    )


def _identity(names: Sequence[str], options: HessianOptions, num_processes: int) -> dict[str, Any]:
    """What saved sums depend on, beside model, data and seed."""
    fixed = {key: its for key, its in dataclasses.asdict(options).items() if key not in WITHOUT_INFLUENCE}
    return {
        "statistics": list(names),
        "options": {**fixed, "compare_halves": options.compare_halves},  # which says in which order
        "number of processes": num_processes,
    }


def _check_space(parent: Path, work: Path, sums: Iterable[Sums], *, num_copies: int) -> None:
    """Refuse to start what cannot be finished: the output, and the saved sums of each process."""
    num_bytes = sum(its.num_bytes() for its in sums)
    parent.mkdir(parents=True, exist_ok=True)
    check_disk_space(parent, num_bytes)
    check_disk_space(work, num_copies * num_bytes)


def _label_names(network: transformers.PreTrainedModel) -> tuple[str, ...]:
    """Classes of a model's head, in order; none for a head without names, as language models have."""
    names = network.config.id2label
    if all(name == f"LABEL_{index}" for index, name in names.items()):
        return ()
    return tuple(names[index] for index in sorted(names))


def _check_label_names(model: Sequence[str], data: Sequence[str]) -> None:
    """Raise unless the labels of the data mean the model's classes."""
    if data and tuple(model) != tuple(data):
        raise DataError(
            f"the model's classes are {list(model)}, the labels of the data {list(data)}. Names and order "
            "must agree where given labels are used; fisher_mc and fisher_exact do not use them."
        )


def _versions() -> dict[str, str]:
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }
