"""Hessian folders as what the inputs of a method ask for."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from merging.errors import CheckpointError
from merging.hessians.artifact import HEADS, INPUTS, NEURONS, OUTPUTS, StoredHessian, folders_of
from merging.methods._seam import Factors, MaskFisher
from merging.sources import for_computing
from merging.sources.statistics import (
    Bias,
    HessianSource,
    Statistic,
    WholeModelStatistic,
    of_weight,
    of_weight_and_bias,
)

if TYPE_CHECKING:
    from torch import Tensor

ACCEPTED: Mapping[str, tuple[str, ...]] = {
    "base_hessian": ("diagonal",),
    "hessians": ("diagonal",),
    "grams": ("gram", "kfac"),
    "base_factors": ("kfac",),
    "factors": ("kfac",),
    "blocks": ("block",),
    "mask_fishers": ("mask_nodes",),
}
"""Which statistics serve an input of ``merge``."""

_ESTIMATORS = {
    "diagonal": "fisher_mc, fisher_exact or fisher_empirical",
    "gram": "gram",
    "kfac": "kfac_mc or kfac_empirical",
    "block": "block_mc or block_empirical",
    "mask_nodes": "mask_nodes",
}


def open_statistics(
    folder: str | os.PathLike[str], *, label: str, key: str, scale: float | None = None
) -> HessianSource | Statistic:
    """Open a Hessian folder for an input of ``merge``; nothing but headers is read yet.

    Args:
        folder: what ``merging.hessians.estimate`` wrote; of several statistics, the one that fits is taken.
        label: names it in error messages: ``"grams['sst2']"``.
        key: the input: a key of ``ACCEPTED``.
        scale: the curvature is multiplied by it; None: ``HessianRecord.default_scale``.

    Raises:
        CheckpointError: this is no Hessian folder, it is damaged, or it holds another statistic.
    """
    return as_input(open_stored(folder, label=label, key=key), key=key, scale=scale)


def open_stored(folder: str | os.PathLike[str], *, label: str, key: str) -> StoredHessian:
    """Open a Hessian folder, or among those that a folder holds the one that serves an input of ``merge``.

    Args:
        folder: what ``merging.hessians.estimate`` wrote.
        label: names it in error messages.
        key: the input: a key of ``ACCEPTED``.

    Raises:
        CheckpointError: this is no Hessian folder, it is damaged, or none or several of those in it would do.
    """
    inside = {name: StoredHessian(place, label=label) for name, place in folders_of(folder).items()}
    if not inside:
        return StoredHessian(folder, label=label)
    for statistic in ACCEPTED[key]:
        fitting = [name for name, stored in inside.items() if stored.record.statistic == statistic]
        if len(fitting) > 1:
            raise CheckpointError(
                f"{label}: {os.fspath(folder)} holds {' and '.join(fitting)}, and {key} takes one of them. "
                f"Pass {Path(folder) / fitting[0]}, for example."
            )
        if fitting:
            return inside[fitting[0]]
    raise CheckpointError(
        f"{label}: {os.fspath(folder)} holds {', '.join(inside)}, but {key} needs {_wanted(key)}"
    )


def _wanted(key: str) -> str:
    """Which statistics an input takes, and what estimates them."""
    return (
        f"{' or '.join(map(repr, ACCEPTED[key]))}. Estimate it with "
        f"{' or '.join(_ESTIMATORS[statistic] for statistic in ACCEPTED[key])}."
    )


def as_input(stored: StoredHessian, *, key: str, scale: float | None = None) -> HessianSource | Statistic:
    """Give an open folder in the form that an input of ``merge`` has; see :func:`open_statistics`.

    Raises:
        CheckpointError: the folder holds another statistic than the input needs, or lacks tensors of it.
    """
    record, label = stored.record, stored.checkpoint.label
    if record.statistic not in ACCEPTED[key]:
        raise CheckpointError(
            f"{label} holds the statistic {record.statistic!r} (estimator {record.estimator!r}), but "
            f"{key} needs {_wanted(key)}"
        )
    if key == "grams" and record.options.get("kfac_sharing") == "reduce" and record.statistic == "kfac":
        raise CheckpointError(
            f"{label} holds K-FAC factors of kfac_sharing 'reduce', whose inputs are means over positions of "
            "an example; grams need those of every position. Estimate gram, or factors with 'expand'."
        )
    if scale is None:
        scale = 1.0 if key == "grams" else record.default_scale
    if record.statistic == "diagonal":
        return HessianSource(stored.checkpoint, scale=scale)
    if record.statistic == "mask_nodes":
        return WholeModelStatistic(_mask_fisher(stored, scale), label=label)
    if record.statistic == "block":
        return StoredBlocks(stored, scale=scale)
    return StoredFactors(stored, scale=scale, inputs_only=key == "grams")


class StoredFactors(Statistic):
    """Gram matrices or K-FAC factors, read for one parameter at a time."""

    def __init__(self, stored: StoredHessian, *, scale: float, inputs_only: bool) -> None:
        """Read from an open folder.

        Args:
            stored: of Gram matrices or K-FAC factors.
            scale: what ``Factors.scale`` is to be.
            inputs_only: leave the factors of the outputs out.

        Raises:
            CheckpointError: a factor is not square, or one of a pair is missing.
        """
        self.label = stored.checkpoint.label
        self._stored = stored
        self._scale = scale
        self._with_outputs = stored.record.statistic == "kfac" and not inputs_only
        tensors = stored.checkpoint.tensors
        self._names = tuple(sorted(name.removesuffix(INPUTS) for name in tensors if name.endswith(INPUTS)))
        for name in self._names:
            for part in (INPUTS, OUTPUTS) if stored.record.statistic == "kfac" else (INPUTS,):
                info = tensors.get(name + part)
                if info is None or len(info.shape) != 2 or info.shape[0] != info.shape[1]:
                    there = "is missing" if info is None else f"is {info.shape}, not square"
                    raise CheckpointError(f"{self.label}: {name + part!r} {there}. Estimate it again.")

    @property
    def names(self) -> Collection[str]:
        """Parameters that have factors."""
        return self._names

    @property
    def biases(self) -> Mapping[str, Bias]:
        """See the base class; none for a method that asked for the inputs only."""
        if not self._with_outputs:
            return {}
        record = self._stored.record
        return {name: Bias(bias, name in record.transposed) for name, bias in record.biases.items()}

    def of(self, name: str) -> Factors | None:
        """Read the factors of one weight by itself; None if it has none."""
        stored = self._read(name)
        return None if stored is None else of_weight(stored)

    def of_layer(self, weight: str) -> Factors | None:
        """Read the factors of a weight and its bias as one matrix; None if it has none."""
        stored = self._read(weight)
        return None if stored is None else of_weight_and_bias(stored)

    def _read(self, name: str) -> Factors | None:
        """The factors of one weight as they are stored."""
        if name not in self._names:
            return None
        record, read = self._stored.record, self._stored.checkpoint.read
        return Factors(
            inputs=for_computing(read(name + INPUTS)),
            outputs=for_computing(read(name + OUTPUTS)) if self._with_outputs else None,
            transposed=name in record.transposed,
            scale=self._scale,
            num_positions=record.num_positions.get(name, 0),
            bias=record.biases.get(name),
        )


class StoredBlocks(Statistic):
    """Full curvatures of vectors, read for one parameter at a time."""

    def __init__(self, stored: StoredHessian, *, scale: float) -> None:
        """Read from an open folder; each block is multiplied by ``scale``."""
        self.label = stored.checkpoint.label
        self._stored = stored
        self._scale = scale

    @property
    def names(self) -> Collection[str]:
        """Parameters that have a block."""
        return self._stored.checkpoint.tensors.keys()

    def of(self, name: str) -> Tensor | None:
        """Read the block (d, d) of one vector; None if it has none."""
        if name not in self.names:
            return None
        block = for_computing(self._stored.checkpoint.read(name))
        return block if self._scale == 1 else block * self._scale


def _mask_fisher(stored: StoredHessian, scale: float) -> MaskFisher:
    """Read the Fishers of mask nodes."""
    checkpoint = stored.checkpoint
    for name in (HEADS, NEURONS):
        if name not in checkpoint.tensors:
            raise CheckpointError(f"{checkpoint.label}: {name!r} is missing. Estimate it again.")
    fisher = MaskFisher(heads=checkpoint.read(HEADS), neurons=checkpoint.read(NEURONS))
    if scale == 1:
        return fisher
    return dataclasses.replace(fisher, heads=fisher.heads * scale, neurons=fisher.neurons * scale)
