"""Curvatures of the vectors of (IA)3 adapters, as a merge of vectors takes them."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from merging.adapters.opened import Adapters, all_modules
from merging.errors import CheckpointError, OptionError
from merging.hessians.artifact import StoredHessian
from merging.sources.adapter_folder import Scaled
from merging.sources.statistics import HessianSource
from merging.sources.stored_statistics import StoredBlocks, as_input, open_stored

if TYPE_CHECKING:
    from torch import Tensor

KEYS = ("blocks", "hessians")
"""Inputs of methods that vectors can have: blocks (d, d), as in MaTS, and diagonals (d,)."""

PathLike = str | os.PathLike[str]
Statistics = Mapping[str, Mapping[str, PathLike | Mapping[str, Any]]]
"""Input -> task -> Hessian folder, or ``{"hessian": folder, "scale": number}``."""


def check_statistics(statistics: Statistics, result: str) -> None:
    """Raise OptionError for statistics that no merge to ``result`` could use."""
    if statistics and result != "vectors":
        raise OptionError(
            f"adapters: statistics go with result='vectors', not with {result!r}: they are of the vectors of "
            "(IA)3. Leave them out, or merge whole models with merge_checkpoints."
        )
    for key in statistics:
        if key not in KEYS:
            raise OptionError(
                f"adapters: vectors have no {key!r}; known: {', '.join(KEYS)}. Estimate them with block_mc "
                "or fisher_mc."
            )


@dataclass(frozen=True)
class VectorStatistic:
    """A Hessian folder of one adapter, opened."""

    key: str
    task: str
    stored: StoredHessian
    scale: float
    """What its means are multiplied by."""

    @property
    def label(self) -> str:
        """Names it in error messages and in ``merge.json``."""
        return f"{self.key}[{self.task!r}]"

    def record(self) -> dict[str, Any]:
        """What ``merge.json`` says of it."""
        digest = self.stored.checkpoint.digest()
        return asdict(self.stored.record) | {"scale": self.scale, "tensors_hash": digest}


def open_vector_statistics(statistics: Statistics, opened: Adapters) -> list[VectorStatistic]:
    """Open every folder, and check that it is of its adapter.

    Raises:
        CheckpointError: no Hessian folder, or of another statistic or another adapter.
    """
    found = []
    for key, folders in sorted(statistics.items()):
        for task, value in sorted(folders.items()):
            given: Mapping[str, Any] = value if isinstance(value, Mapping) else {"hessian": value}
            label = f"{key}[{task!r}]"
            stored = open_stored(given["hessian"], label=label, key=key)
            if stored.record.model_hash != opened[task].digest():
                raise CheckpointError(
                    f"{label} was estimated at other weights than {opened[task].label}: its model was "
                    f"{stored.record.model}. Estimate it again, or pass the adapter that it belongs to."
                )
            scale = given.get("scale", stored.record.default_scale)
            found.append(VectorStatistic(key, task, stored, scale))
    return found


def of_vectors(
    statistics: Sequence[VectorStatistic], opened: Adapters
) -> dict[str, dict[str, dict[str, Tensor]]]:
    """Read statistics: input -> task -> ``<module>.weight`` -> (d, d) or (d,), times their scales.

    A module that an adapter lacks has no block, and a diagonal of zeros.

    Raises:
        CheckpointError: a folder holds another statistic than the input takes, or lacks a module.
    """
    import torch

    found: dict[str, dict[str, dict[str, Tensor]]] = {}
    for its in statistics:
        source: Any = as_input(its.stored, key=its.key, scale=its.scale)
        values = found.setdefault(its.key, {}).setdefault(its.task, {})
        for module in all_modules(opened):
            scaled = opened[its.task].modules.get(module)
            if isinstance(scaled, Scaled):
                value = _value(source, scaled.vector)
                if value is None:
                    raise CheckpointError(
                        f"{its.label} says nothing of {scaled.vector!r}. Estimate it again at "
                        f"{opened[its.task].label}."
                    )
                values[f"{module}.weight"] = value
            elif its.key == "hessians":
                values[f"{module}.weight"] = torch.zeros(_length(opened, module))
    return found


def _value(source: StoredBlocks | HessianSource, name: str) -> Tensor | None:
    if isinstance(source, StoredBlocks):
        return source.of(name)
    return source.read(name).reshape(-1) if name in source.tensors else None


def _length(opened: Adapters, module: str) -> int:
    return next(
        its.length for adapter in opened.values() if isinstance(its := adapter.modules.get(module), Scaled)
    )
