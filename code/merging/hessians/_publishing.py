"""The end of an estimate: sums of all processes together, as Hessian folders that say how good they are."""

from __future__ import annotations

import contextlib
import dataclasses
import resource
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from merging.errors import MergingError
from merging.files.checkpoints import Checkpoint
from merging.files.publishing import published_folder
from merging.hessians._measuring import Half, measure
from merging.hessians._processes import Processes
from merging.hessians._saved_sums import SavedSums
from merging.hessians._statistics import Sums
from merging.hessians.artifact import PLOT_NAME, TENSORS_NAME, HessianRecord, write_record, write_tensors
from merging.hessians.inspection import draw
from merging.hessians.report import Report


def publish(
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

    Raises:
        MergingError: an estimate is not finite.
        DiskSpaceError: the disk filled up.
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


def _check_finite(tensors: Mapping[str, Tensor]) -> None:
    for name, tensor in tensors.items():
        if not tensor.isfinite().all():
            raise MergingError(
                f"the estimate for {name!r} is not finite: squares of its gradients overflow. The model has "
                "probably diverged in training."
            )
