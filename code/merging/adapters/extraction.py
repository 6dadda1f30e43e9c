"""Make a LoRA adapter of a whole model: the nearest update of a given rank, module by module."""

from __future__ import annotations

import math
import os
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from merging.adapters.low_rank import Truncated, truncate
from merging.adapters.writing import Layout, write_lora
from merging.errors import CheckpointError, OptionError
from merging.files.checkpoints import FLOAT_DTYPES, torch_dtype
from merging.files.publishing import published_folder
from merging.sources import Source, for_computing

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Losses:
    """How far an adapter is from the model that it stands for, in Frobenius norms.

    Of the factors as they are computed; storing them in bfloat16 rounds them once more.
    """

    modules: Mapping[str, float]
    """Relative error of each module's update."""
    all: float
    """Relative error of all updates together."""
    left_out: tuple[str, ...] = ()
    """Tensors that differ from the base's, but that the adapter does not change."""

    @classmethod
    def of(cls, cut: Mapping[str, Truncated], left_out: Collection[str] = ()) -> Losses:
        """Sum up what was lost in each module."""
        lost = math.hypot(*(its.lost for its in cut.values()))
        total = math.hypot(*(its.total for its in cut.values()))
        return cls(
            modules={module: its.relative_error for module, its in sorted(cut.items())},
            all=lost / total if total else 0.0,
            left_out=tuple(sorted(left_out)),
        )


def as_adapter(
    base: Source,
    merged: Source,
    *,
    out: str | os.PathLike[str],
    rank: int,
    modules: Collection[str] | None = None,
    embeddings: Collection[str] = (),
    transposed: Collection[str] = (),
    settings: Mapping[str, Any] | None = None,
    dtype: str = "F32",
) -> Losses:
    """Write the adapter of one rank that is nearest to ``merged - base``.

    Args:
        base: what the adapter will be put on.
        merged: a model of the same shapes.
        out: the folder to make.
        rank: of every module's update, >= 1; smaller where the weight has fewer rows or columns.
        modules: paths of the modules to change; None: every one whose weight is a matrix and differs.
        embeddings: modules among them that are embeddings, (rows of the table, width).
        transposed: modules among them whose weights are stored (inputs, outputs), as GPT-2's Conv1D.
        settings: more of ``adapter_config.json``: ``base_model_name_or_path``, ``task_type``, ...
        dtype: of the factors.

    Returns:
        What was lost; tensors that no module covers are named, and not in the adapter.

    Raises:
        OptionError: the rank is < 1.
        CheckpointError: shapes differ, a module's weight is missing, or nothing differs.
    """
    check_rank(rank)
    cut: dict[str, Truncated] = {}
    left_out: list[str] = []
    if modules is not None:
        for module in modules:
            if f"{module}.weight" not in base.tensors:
                raise CheckpointError(
                    f"{base.label} has no {f'{module}.weight'!r}. Name modules by their paths, without "
                    "'.weight'."
                )
    for name, info in sorted(base.tensors.items()):
        if info.dtype not in FLOAT_DTYPES or name not in merged.tensors:
            continue
        if merged.tensors[name].shape != info.shape:
            raise CheckpointError(
                f"{name!r} is {info.shape} in {base.label} and {merged.tensors[name].shape} in "
                f"{merged.label}. An adapter cannot change shapes: use the whole model."
            )
        module = name.removesuffix(".weight")
        wanted = name.endswith(".weight") and (
            module in modules if modules is not None else len(info.shape) == 2
        )
        difference = for_computing(merged.read(name)) - for_computing(base.read(name))
        if not difference.any() and (modules is None or not wanted):
            continue
        if wanted:
            swapped = module in embeddings or module in transposed
            cut[module] = truncate(_matrix(difference, swapped=swapped), rank)
        else:
            left_out.append(name)
    if not cut:
        raise CheckpointError(
            f"{merged.label} equals {base.label} in every matrix; there is nothing to adapt."
        )
    shapes = {module: base.tensors[f"{module}.weight"].shape for module in cut}
    layouts = {
        module: Layout(is_embedding=module in embeddings)
        if len(shape) == 2
        else Layout(a_tail=shape[1:], b_tail=(1,) * (len(shape) - 2))
        for module, shape in shapes.items()
    }
    with published_folder(out) as folder:
        write_lora(
            folder,
            {module: its.update for module, its in cut.items()},
            layouts=layouts,
            saved={},
            settings={"fan_in_fan_out": bool(transposed), **(settings or {})},
            dtype=torch_dtype(dtype),
        )
    return Losses.of(cut, left_out)


def check_rank(rank: int) -> None:
    """Refuse a rank below 1."""
    if type(rank) is not int or rank < 1:
        raise OptionError(f"adapters: rank must be an integer >= 1, got {rank!r}.")


def _matrix(difference: Tensor, *, swapped: bool) -> Tensor:
    """A weight's difference as (outputs, inputs)."""
    return difference.T if swapped else difference.reshape(len(difference), -1)
