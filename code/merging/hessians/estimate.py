"""One estimate from end to end: a model folder and a training set in, Hessian folders out.

All statistics that are asked for share one forward pass over the data, and a backward pass where they are of
the same gradients. A killed estimate that is started again with the same arguments goes on from what it had
saved, and ends with the same bits. ``accelerate launch -m merging hessian ...`` shares the examples between
processes; the result is that of one process but for the order of summation.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import platform
import resource
import shutil
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor

from merging import hessians, tasks
from merging.data import encoded, splits
from merging.errors import DataError, MergingError
from merging.files.checkpoints import Checkpoint, check_disk_space
from merging.files.publishing import published_folder
from merging.hessians import _distributions, _examples
from merging.hessians._adding import Adder, add_all
from merging.hessians._measuring import Half, measure
from merging.hessians._processes import Processes, join
from merging.hessians._saved_sums import SUMS_PATTERN, SavedSums
from merging.hessians._statistics import Sums, open_sums
from merging.hessians.artifact import (
    PLOT_NAME,
    TENSORS_NAME,
    HessianRecord,
    write_record,
    write_tensors,
)
from merging.hessians.inspection import draw
from merging.hessians.options import WITHOUT_INFLUENCE
from merging.hessians.report import Report
from merging.options import check_seed
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
    methods = {name: hessians.load(name) for name in names}
    labelled = any(method.NEEDS_LABELS for method in methods.values())
    task = tasks.load(task_type)
    processes = join()
    model = os.fspath(model)
    source = open_parameters(model, label="model")
    network = task.load_model(model)
    if isinstance(task, tasks.OpenLabels) and "label" in splits.load(data).column_names:
        task.set_label_names(network, task.label_names(splits.load(data)))
    label_names = _label_names(network)
    processor = task.load_processor(model=model)
    with processes.first_goes_first():
        rows = encoded.load(
            data,
            task_type=task_type,
            processor=processor,
            max_tokens=parsed.max_tokens,
            labelled=labelled,
        )
    if labelled:
        _check_label_names(label_names, task.label_names(splits.load(data)))
    adder = Adder(
        network=network.to(processes.device, getattr(torch, parsed.dtype)),
        task=task,
        processor=processor,
        rows=rows,
        methods=methods,
        sums=open_sums(methods, network, task.scores, parsed, source),
        distribution=_distributions.load(tasks.label_distribution(task)),
        options=parsed,
        seed=seed,
        device=processes.device,
    )
    common: dict[str, Any] = {
        "task_type": task_type,
        "model_hash": source.digest(),
        "data": splits.describe(data),
        "seed": seed,
    }
    identity = common | {
        "statistics": list(names),
        "options": {
            **{key: its for key, its in dataclasses.asdict(parsed).items() if key not in WITHOUT_INFLUENCE},
            "compare_halves": parsed.compare_halves,
        },
        "number of processes": processes.count,
    }
    own_work, work = work is None, Path(work or work_folder(out)).resolve()
    num_copies = processes.count * (2 + parsed.compare_halves)  # the older one is kept while it is replaced
    _check_space(Path(out).resolve().parent, work, adder.sums.values(), num_copies=num_copies)
    saved = SavedSums(work, processes.rank, adder.sums, identity)
    chosen = _examples.by_length(rows, _examples.choose(rows, parsed.max_examples, seed))
    parts = _examples.halves(chosen, seed) if parsed.compare_halves else [chosen]

    def record(name: str, tensors: Mapping[str, Tensor]) -> HessianRecord:
        return HessianRecord(
            estimator=name,
            num_examples=adder.sums[name].num_examples,
            num_train_examples=len(rows),
            model=model,
            options=dataclasses.asdict(parsed),
            label_names=label_names,
            without_gradient=tuple(sorted(key for key, value in tensors.items() if not value.any())),
            seconds=round(seconds, 3),
            versions=_versions(),
            statistic=methods[name].STATISTIC,
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
        _publish(
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


def _publish(
    out: Path,
    sums: Mapping[str, Sums],
    saved: SavedSums | None,
    processes: Processes,
    record: Callable[[str, Mapping[str, Tensor]], HessianRecord],
    *,
    in_folders: bool,
) -> None:
    """Add the sums of all processes up; the first one writes them with what can be said of them.

    Args:
        out: folder to publish.
        sums: by estimator; lost afterwards.
        saved: the sums of the first half, which the report compares; or None.
        processes: all of them come here.
        record: makes the record of an estimator, but for the report, of its tensors.
        in_folders: whether each estimator has a folder of its own in ``out``.
    """
    _add_up(sums.values(), processes)
    with published_folder(out) if processes.is_first else contextlib.nullcontext() as folder:
        written: list[_Written] = []
        if folder is not None:
            for name, its in sums.items():
                place = folder / name if in_folders else folder
                place.mkdir(exist_ok=True)
                tensors = its.tensors()
                _check_finite(tensors)
                write_tensors(place, tensors)
                written.append(_Written(its, place, record(name, tensors), _divisors(its, tensors)))
        if saved is not None:
            saved.restore_half()
            _add_up(sums.values(), processes)
        for done in written:
            layers, half_change, zeros = measure(
                done.record.statistic,
                list(done.divisors),
                Checkpoint([done.folder / TENSORS_NAME], label=done.record.estimator).read,
                None if saved is None else _half(done),
            )
            report = Report(
                half_change=half_change,
                zeros=zeros,
                layers=layers,
                num_processes=processes.count,
                peak_memory_bytes=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
                peak_gpu_bytes=processes.peak_gpu_bytes(),
            )
            reported = dataclasses.replace(done.record, report=report)
            write_record(done.folder, reported)
            draw(reported, done.folder / PLOT_NAME)


@dataclass(frozen=True)
class _Written:
    """An estimate whose tensors are in their folder."""

    sums: Sums
    folder: Path
    record: HessianRecord
    divisors: Mapping[str, int]
    """How many examples or positions each tensor is a mean over, in the order of the model."""


def _half(done: _Written) -> Half:
    """The means over the first half, which the sums are of now."""
    tensors = done.sums.tensors()
    counts = _divisors(done.sums, tensors)
    return Half(tensors, {name: count / done.divisors[name] for name, count in counts.items()})


def _add_up(sums: Iterable[Sums], processes: Processes) -> None:
    """Add the sums of all processes up, in the first one."""
    for its in sums:
        for total in its.totals().values():
            processes.add_up(total)
        counts = torch.tensor(its.counts(), dtype=torch.int64, device=processes.device)
        processes.add_up(counts)
        its.set_counts(counts.tolist())


def _divisors(sums: Sums, tensors: Iterable[str]) -> dict[str, int]:
    """How many examples or positions each tensor is a mean over."""
    divisors = sums.divisors()
    return {name: divisors.get(name, sums.num_examples) for name in tensors}


def _check_space(parent: Path, work: Path, sums: Iterable[Sums], *, num_copies: int) -> None:
    """Refuse to start what cannot be finished: the output, and the saved sums of each process."""
    num_bytes = sum(its.num_bytes() for its in sums)
    parent.mkdir(parents=True, exist_ok=True)
    check_disk_space(parent, num_bytes)
    check_disk_space(work, num_copies * num_bytes)


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
