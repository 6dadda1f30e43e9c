"""Numbers of a report: what can be said of the stored means, layer by layer."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from merging.hessians.artifact import INPUTS, OUTPUTS, Statistic
from merging.hessians.report import LayerReport

_PIECE = 1 << 20  # elements that are looked at together, in float64


@dataclass(frozen=True)
class Half:
    """Means over the first half of the examples."""

    tensors: Mapping[str, Tensor]
    shares: Mapping[str, float]
    """Of what each tensor of the whole is a mean over, the share that is in this half, 0..1."""


def measure(
    statistic: Statistic, names: Iterable[str], read: Callable[[str], Tensor], half: Half | None
) -> tuple[dict[str, LayerReport], float | None, float]:
    """Look at each stored tensor once.

    Args:
        statistic: what the tensors are.
        names: of the tensors, in the order of the model.
        read: gives one of them.
        half: what to compare with.

    Returns:
        The layers; half change and share of zeros over everything (see ``report.py``).
    """
    layers: defaultdict[str, _Sums] = defaultdict(_Sums)
    whole = _Sums()
    for name in names:
        tensor = read(name)
        other = None if half is None or half.shares.get(name, 1.0) >= 1 else half.tensors.get(name)
        share = 0.0 if half is None or other is None else half.shares[name]
        for layer, rows in _parts(statistic, name, tensor):
            numbers = _look(statistic, tensor[rows], None if other is None else other[rows], share)
            layers[layer].add(name, numbers)
            whole.add(name, numbers)
    reports = {
        layer: LayerReport(total=its.total(), half_change=its.half_change(), zeros=its.zeros())
        for layer, its in layers.items()
    }
    return reports, whole.half_change(), whole.zeros()


def layer_of(name: str) -> str:
    """The layer of a parameter: its name up to the first number, or without the last word.

    ``bert.encoder.layer.3.output.dense.weight`` is in ``bert.encoder.layer.3``, ``bert.pooler.dense.bias`` in
    ``bert.pooler.dense``.
    """
    words = name.removesuffix(INPUTS).removesuffix(OUTPUTS).split(".")
    for place, word in enumerate(words):
        if word.isdigit():
            return ".".join(words[: place + 1])
    return ".".join(words[:-1]) or name


@dataclass(frozen=True)
class _Numbers:
    trace: float
    num_zeros: int
    num_elements: int
    norm: float
    """Squared, of the whole; 0 where there is nothing to compare."""
    difference: float
    """Squared norm of m_1 - m_2."""


class _Sums:
    """What was seen of one layer, or of everything."""

    def __init__(self) -> None:
        self._traces: defaultdict[str, dict[str, float]] = defaultdict(dict)
        self._norms: defaultdict[str, float] = defaultdict(float)
        self._differences: defaultdict[str, float] = defaultdict(float)
        self._num_zeros = self._num_elements = 0

    def add(self, name: str, numbers: _Numbers) -> None:
        kind = next((suffix for suffix in (INPUTS, OUTPUTS) if name.endswith(suffix)), "")
        traces = self._traces[name.removesuffix(kind)]
        traces[kind] = traces.get(kind, 0.0) + numbers.trace
        self._norms[kind] += numbers.norm
        self._differences[kind] += numbers.difference
        self._num_zeros += numbers.num_zeros
        self._num_elements += numbers.num_elements

    def total(self) -> float:
        return sum(math.prod(factors.values()) for factors in self._traces.values())

    def half_change(self) -> float | None:
        """Of a product of two factors, both changes count."""
        changes = [self._differences[kind] / norm for kind, norm in self._norms.items() if norm > 0]
        return math.sqrt(sum(changes)) if changes else None

    def zeros(self) -> float:
        return self._num_zeros / max(1, self._num_elements)


def _parts(statistic: Statistic, name: str, tensor: Tensor) -> list[tuple[str, Any]]:
    """The layers that a tensor is about, and its rows for each of them."""
    if statistic != "mask_nodes":
        return [(layer_of(name), ...)]
    return [(f"{name}.{row}", row) for row in range(len(tensor))]


def _look(statistic: Statistic, tensor: Tensor, half: Tensor | None, share: float) -> _Numbers:
    total = norm = difference = 0.0
    num_nonzero = 0
    values, others = tensor.reshape(-1), None if half is None else half.reshape(-1)
    for start in range(0, len(values), _PIECE):
        piece = values[start : start + _PIECE].double()
        total += float(piece.sum())
        num_nonzero += int(torch.count_nonzero(piece))
        if others is not None:
            norm += float(piece.square().sum())
            # m_1 - m_2, where m is share m_1 + (1 - share) m_2
            change = (others[start : start + _PIECE].double().to(piece.device) - piece) / (1 - share)
            difference += float(change.square().sum())
    if statistic in ("gram", "kfac", "block"):
        total = float(tensor.diagonal().double().sum())
    return _Numbers(total, len(values) - num_nonzero, len(values), norm, difference)
