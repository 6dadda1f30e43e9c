"""A model brought to another vocabulary, as a source: rows of embeddings and heads are rearranged."""

from __future__ import annotations

import bisect
import re
import threading
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from merging.files.checkpoints import TensorInfo, torch_dtype
from merging.sources import Source
from merging.sources.layers import split_name

if TYPE_CHECKING:
    from torch import Tensor

FILLED = -1
"""Stands for a row that is the mean of rows of other models, or zero."""
PADDING = -2
"""Stands for a row that no token has: the mean of the rows that tokens have."""

_MODULE = re.compile(
    r"(^|\.)(\w*embed\w*|wte|shared|lm_head|output|decoder|proj_out|vocab_projector|generator_lm_head|predictions)"
    r"\.(weight|bias)$"
)
_NO_TOKENS = re.compile(r"position|token_type|wpe|patch|norm", re.IGNORECASE)
_FEW_ROWS = 1024
_CHUNK_ROWS = 4096


@dataclass(frozen=True)
class Rows:
    """Where each row of the new vocabulary comes from, for one model."""

    own: Sequence[int]
    """Its own row, FILLED or PADDING, by row of the output."""
    donors: Mapping[int, Sequence[tuple[Source, int]]]
    """For FILLED rows, the rows whose mean they are; none of them: zero."""


def vocabulary_tensors(tensors: Mapping[str, TensorInfo], num_rows: int) -> frozenset[str]:
    """Names of the tensors whose rows are tokens: embeddings, output heads and their biases.

    They lie outside of the layers, and have ``num_rows`` rows. Where there are so few rows that other tensors
    may have as many by chance, the module's name must say so, too.
    """
    return frozenset(name for name, info in tensors.items() if _is_by_token(name, info, num_rows))


def _is_by_token(name: str, info: TensorInfo, num_rows: int) -> bool:
    if split_name(name) is not None or _NO_TOKENS.search(name):
        return False
    if name.endswith("final_logits_bias"):  # of BART and its relatives: (1, tokens)
        return info.num_elements == num_rows
    if not 1 <= len(info.shape) <= 2 or info.shape[0] != num_rows:
        return False
    return bool(_MODULE.search(name)) or num_rows >= _FEW_ROWS


class VocabularySource:
    """A view of a model with the rows of another vocabulary."""

    def __init__(self, source: Source, rows: Rows, names: Collection[str]) -> None:
        """Rearrange the rows of the tensors ``names``; all others are the source's."""
        self.label = source.label
        self._source = source
        self._rows = rows
        self._infos = dict(source.tensors)
        for name in names:
            info = self._infos[name]
            shape = (
                (1, len(rows.own))
                if len(info.shape) == 2 and info.shape[0] == 1
                else (len(rows.own), *info.shape[1:])
            )
            self._infos[name] = replace(info, shape=shape)
        self._names = frozenset(names)
        self._runs = _runs(rows.own)
        self._starts = [run.start for run in self._runs]
        self._means: dict[str, Tensor] = {}
        self._lock = threading.Lock()

    @property
    def tensors(self) -> Mapping[str, TensorInfo]:
        """Shape and dtype of every tensor."""
        return self._infos

    def read(self, name: str) -> Tensor:
        """One tensor."""
        if name not in self._names:
            return self._source.read(name)
        info = self._infos[name]
        return self.read_piece(name, 0, info.num_elements).reshape(info.shape)

    def read_piece(self, name: str, start: int, stop: int) -> Tensor:
        """Elements of one tensor, counted row by row, as a vector."""
        import torch

        if name not in self._names or start >= stop:
            return self._source.read_piece(name, start, stop)
        width = self._infos[name].num_elements // len(self._rows.own)
        first, last = start // width, (stop - 1) // width
        rows = torch.empty((last + 1 - first) * width, dtype=torch_dtype(self._infos[name].dtype))
        number = bisect.bisect_right(self._starts, first) - 1
        row = first
        while row <= last:
            run = self._runs[number]
            end = min(run.start + run.length, last + 1)
            target = rows[(row - first) * width : (end - first) * width]
            target.copy_(self._read_run(name, run, row, end, width))
            row, number = end, number + 1
        return rows[start - first * width : stop - first * width]

    def _read_run(self, name: str, run: _Run, row: int, end: int, width: int) -> Tensor:
        if run.place >= 0:
            place = run.place + row - run.start
            return self._source.read_piece(name, place * width, (place + end - row) * width)
        if run.place == PADDING:
            return self._mean(name, width).repeat(end - row)
        return self._filled(name, row, width)

    def _filled(self, name: str, row: int, width: int) -> Tensor:
        """The mean of the donors' rows; 0 without any."""
        import torch

        total = torch.zeros(width)
        donors = self._rows.donors.get(row, ())
        for source, place in donors:
            total += source.read_piece(name, place * width, (place + 1) * width)
        return total / max(len(donors), 1)

    def _mean(self, name: str, width: int) -> Tensor:
        """The mean of all rows that tokens have."""
        import torch

        with self._lock:
            if name not in self._means:
                total, count = torch.zeros(width, dtype=torch.float64), 0
                for run in self._runs:
                    if run.place == PADDING:
                        continue
                    for row in range(run.start, run.start + run.length, _CHUNK_ROWS):
                        end = min(row + _CHUNK_ROWS, run.start + run.length)
                        values = self._read_run(name, run, row, end, width)
                        total += values.reshape(-1, width).sum(0, dtype=torch.float64)
                        count += end - row
                self._means[name] = (total / max(count, 1)).float()
            return self._means[name]


@dataclass(frozen=True)
class _Run:
    """Rows of the output that follow each other in the source, too; one FILLED row; or PADDING rows."""

    start: int
    length: int
    place: int


def _runs(own: Sequence[int]) -> list[_Run]:
    runs: list[_Run] = []
    start = 0
    for row in range(1, len(own) + 1):
        if row < len(own) and own[start] != FILLED:
            follows = own[start] + row - start if own[start] >= 0 else PADDING
            if own[row] == follows:
                continue
        runs.append(_Run(start, row - start, own[start]))
        start = row
    return runs
