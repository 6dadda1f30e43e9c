"""Curvatures of the vectors of (IA)3 adapters, as a merge of vectors takes them."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from merging.adapters.opened import Adapters, all_modules
from merging.errors import CheckpointError, OptionError
from merging.sources.adapter_folder import Scaled
from merging.sources.statistics import HessianSource
from merging.sources.stored_statistics import StoredBlocks, as_input, open_stored

if TYPE_CHECKING:
    from torch import Tensor

KEYS = ("blocks", "hessians")
"""Inputs of methods that vectors can have: blocks (d, d), as in MaTS, and diagonals (d,)."""

PathLike = str | os.PathLike[str]


def check_statistics(statistics: Mapping[str, Mapping[str, PathLike]], result: str) -> None:
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


def of_vectors(
    statistics: Mapping[str, Mapping[str, PathLike]], opened: Adapters
) -> dict[str, dict[str, dict[str, Tensor]]]:
    """Read statistics: input -> task -> ``<module>.weight`` -> (d, d) or (d,), summed over training examples.

    A module that an adapter lacks has no block, and a diagonal of zeros.

    Raises:
        CheckpointError: no Hessian folder, of another statistic, of another adapter, or without a module.
    """
    import torch

    found: dict[str, dict[str, dict[str, Tensor]]] = {}
    for key, folders in sorted(statistics.items()):
        found[key] = {}
        for task, folder in sorted(folders.items()):
            source = _open(folder, key=key, task=task, opened=opened)
            values = found[key][task] = {}
            for module in all_modules(opened):
                its = opened[task].modules.get(module)
                if isinstance(its, Scaled):
                    value = _value(source, its.vector)
                    if value is None:
                        raise CheckpointError(
                            f"{key}[{task!r}]: {os.fspath(folder)} says nothing of {its.vector!r}. "
                            f"Estimate it again at {opened[task].label}."
                        )
                    values[f"{module}.weight"] = value
                elif key == "hessians":
                    values[f"{module}.weight"] = torch.zeros(_length(opened, module))
    return found


def _open(folder: PathLike, *, key: str, task: str, opened: Adapters) -> Any:
    label = f"{key}[{task!r}]"
    stored = open_stored(folder, label=label, key=key)
    if stored.record.model_hash != opened[task].digest():
        raise CheckpointError(
            f"{label} was estimated at other weights than {opened[task].label}: its model was "
            f"{stored.record.model}. Estimate it again, or pass the adapter that it belongs to."
        )
    return as_input(stored, key=key)


def _value(source: StoredBlocks | HessianSource, name: str) -> Tensor | None:
    if isinstance(source, StoredBlocks):
        return source.of(name)
    return source.read(name).reshape(-1) if name in source.tensors else None


def _length(opened: Adapters, module: str) -> int:
    return next(
        its.length for adapter in opened.values() if isinstance(its := adapter.modules.get(module), Scaled)
    )
