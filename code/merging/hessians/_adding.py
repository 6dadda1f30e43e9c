"""The loop over the examples of one process: batches are added up, and the sums are saved now and then."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import datasets
import torch
import transformers
from torch import Tensor

from merging.hessians import Estimator, _categorical, _passes
from merging.hessians._distributions import Distribution
from merging.hessians._per_example import Cotangents
from merging.hessians._saved_sums import Position, SavedSums
from merging.hessians._statistics import Sums
from merging.hessians.options import HessianOptions
from merging.tasks import TaskType

_PROGRESS_INTERVAL_S = 1.0
_MAX_SHARE_OF_SAVING = 0.05  # of the time, for sums so large that they take long to write


@dataclass(frozen=True, kw_only=True)
class Adder:
    """Adds examples to the sums of all estimators."""

    network: transformers.PreTrainedModel
    task: TaskType
    processor: Any
    rows: datasets.Dataset
    methods: Mapping[str, Estimator]
    """Estimators by name."""
    sums: Mapping[str, Sums]
    """By estimator."""
    distribution: Distribution
    options: HessianOptions
    seed: int
    device: torch.device

    def add(self, examples: Sequence[int]) -> None:
        """Add a batch: places of examples in the data set."""
        inputs, labels = self._load(examples)
        _passes.run(
            self.network,
            self.task.scores,
            inputs,
            self._groups(examples, labels),
            backward=any(method.STATISTIC != "gram" for method in self.methods.values()),
        )

    def prepare(self, examples: Sequence[int]) -> None:
        """Let the sums learn of the model what they would learn from their first batch."""
        inputs, _ = self._load(examples)
        for sums in self.sums.values():
            sums.member.prepare(inputs)

    def _load(self, examples: Sequence[int]) -> tuple[dict[str, Tensor], Tensor | None]:
        batch = self.task.collate([self.rows[index] for index in examples], self.processor)
        inputs = {key: value.to(self.device) for key, value in batch.items()}
        return inputs, inputs.pop("labels", None)

    def _groups(self, examples: Sequence[int], labels: Tensor | None) -> list[_passes.Group]:
        """Sums of the same gradients together: a diagonal and factors draw the same labels."""
        found: dict[tuple[Any, bool], list[_passes.Member]] = {}
        seen = set()
        by_backward = sorted(self.methods, key=lambda name: self.methods[name].STATISTIC == "gram")
        for name in by_backward:  # Gram matrices may be a side of factors, which then add to both
            method, member = self.methods[name], self.sums[name].member
            if id(member) not in seen:
                seen.add(id(member))
                is_averaged = self.options.token_reduction == "mean" or (
                    method.STATISTIC == "kfac" and self.options.kfac_scale == "reference"
                )
                found.setdefault((method.cotangents, is_averaged), []).append(member)
        groups = []
        for (cotangents, is_averaged), members in found.items():
            given: Cotangents = partial(
                cotangents,
                labels=labels,
                examples=examples,
                num_samples=self.options.num_samples,
                seed=self.seed,
                distribution=self.distribution,
            )
            if is_averaged:
                given = partial(_categorical.averaged, given, labels=labels)
            groups.append(_passes.Group(given, members))
        return groups


def add_all(
    adder: Adder,
    parts: Sequence[Sequence[int]],
    saved: SavedSums,
    *,
    num_examples: int,
    progress: Path | None,
    started: float,
    save_interval_s: float,
) -> float:
    """Add every example of this process, going on after those whose sums were saved.

    Args:
        adder: adds batches.
        parts: places of the examples in order: both halves, or everything. The sums of the first of two
            parts are kept.
        saved: the sums on the disk.
        num_examples: of all processes together, for ``progress``.
        progress: file to which a JSON line is added every second, or None.
        started: reading of ``time.monotonic`` when the estimate began.
        save_interval_s: seconds between two savings, at least.

    Returns:
        Seconds that this and earlier runs took until now.
    """
    begin = saved.resume(half=len(parts[0]) if len(parts) == 2 else None) or Position(0, 0.0)
    size = adder.options.batch_size
    if begin.num_done:
        adder.prepare(next(part[:size] for part in parts if part))
    lines = _Progress(progress, num_done=begin.num_done, num_own=sum(map(len, parts)), total=num_examples)

    def position() -> Position:
        return Position(lines.num_done, begin.seconds + time.monotonic() - started)

    saved_at, pause, end = time.monotonic(), save_interval_s, 0
    for place, part in enumerate(parts):
        first, end = end, end + len(part)
        for start in range(max(0, begin.num_done - first), len(part), size):
            batch = part[start : start + size]
            adder.add(batch)
            lines.advance(len(batch))
            if time.monotonic() - saved_at >= pause:
                before = time.monotonic()
                saved.save(position())
                saved_at = time.monotonic()
                pause = max(save_interval_s, (saved_at - before) / _MAX_SHARE_OF_SAVING)
        if len(parts) == 2 and place == 0 and begin.num_done <= end:
            saved.save_half(position())
    return position().seconds


class _Progress:
    """Appends a JSON line to a file about once a second; without a file it only counts.

    ``step`` and ``total_steps`` count examples of all processes, of which the others are taken to be as far.
    """

    def __init__(self, file: Path | None, *, num_done: int, num_own: int, total: int) -> None:
        self.num_done = self._num_before = num_done
        self._file = file
        self._num_own = num_own
        self._total = total
        self._started = self._written = time.monotonic()

    def advance(self, num_examples: int) -> None:
        """Count examples that are done."""
        self.num_done += num_examples
        now = time.monotonic()
        is_last = self.num_done == self._num_own
        if self._file is None or (now - self._written < _PROGRESS_INTERVAL_S and not is_last):
            return
        self._written = now
        step = self._total * self.num_done // self._num_own
        speed = (step - self._total * self._num_before // self._num_own) / max(now - self._started, 1e-9)
        line = {
            "step": step,
            "total_steps": self._total,
            "examples_per_s": round(speed, 2),
            "seconds_left": round((self._total - step) / speed, 1),
        }
        with self._file.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(line) + "\n")
