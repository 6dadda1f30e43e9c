"""The effective weights of a base with an adapter on it, as a source.

LoRA: W + s B A. (IA)3: rows of W (and the bias) times v, or columns of W times v for feed-forward modules.
What the adapter stores whole (modules_to_save, biases) replaces the base's.
"""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from merging.errors import CheckpointError
from merging.files.checkpoints import TensorInfo
from merging.sources import Source, for_computing, read_for_computing
from merging.sources.adapter_folder import AdapterFolder, LowRank, Scaled, Tokens
from merging.sources.adapter_names import match_modules, match_name

if TYPE_CHECKING:
    from torch import Tensor

_BLOCK_ELEMENTS = 2**16
"""The product of two factors is computed in blocks of whole rows of about this size, always the same ones: an
element comes out the same, to the last bit, whichever piece it is asked for in."""

_Change = Callable[["Tensor", int], object]
"""Changes a vector of elements of a weight in place; told the number of the first."""


class AdapterSource:
    """Base and adapter as one model; only the rows that a piece needs are multiplied out."""

    def __init__(
        self,
        base: Source,
        folder: str | os.PathLike[str],
        *,
        label: str,
        base_folder: str | os.PathLike[str] | None = None,
    ) -> None:
        """Open an adapter and find its modules in the base.

        Args:
            base: what the adapter was trained on.
            folder: the adapter, as peft saves it.
            label: names this source in error messages: ``models['sst2']``.
            base_folder: where the base comes from; only compared with what the adapter says of its base.

        Raises:
            CheckpointError: the adapter is damaged, of an unsupported kind, or does not fit the base.
        """
        self.label = label
        self.adapter = AdapterFolder(folder, label=label)
        self.notes = self._notes(base_folder)
        """What a reader of the result should know, one sentence each."""
        self.base = base
        """What the adapter is put on."""
        self._replaced = self._match_saved()
        self._infos = dict(base.tensors) | {
            name: self.adapter.tensors[key] for name, key in self._replaced.items()
        }
        self.paths = match_modules(self.adapter.modules, self._infos, owner=label)
        """The base's path of each module of the adapter."""
        self._changes: dict[str, _Change] = {}
        self._swapped: dict[str, bool] = {}
        for module, path in self.paths.items():
            its = self.adapter.modules[module]
            if isinstance(its, LowRank):
                self._add_low_rank(module, path, its)
            else:
                self._add_scaled(module, path, its)

        paths = match_modules(self.adapter.tokens, self._infos, owner=label)
        for module, rows in self.adapter.tokens.items():
            self._add_tokens(module, paths[module], rows)

    @property
    def tensors(self) -> Mapping[str, TensorInfo]:
        """Shape and dtype of every tensor; changed ones are F32 (or F64), whatever the base is stored in."""
        return self._infos

    @property
    def changed(self) -> tuple[str, ...]:
        """Tensors that differ from the base's (or that the base has not); sorted."""
        return tuple(sorted({*self._changes, *self._replaced}))

    def is_swapped(self, module: str) -> bool:
        """Whether a LoRA module's weight is stored as the transpose of its update: embeddings, Conv1D."""
        return self._swapped[module]

    def read(self, name: str) -> Tensor:
        """One effective tensor."""
        info = self._infos[name]
        if name not in self._changes and name not in self._replaced:
            return self.base.read(name)
        return self.read_piece(name, 0, info.num_elements).reshape(info.shape)

    def read_piece(self, name: str, start: int, stop: int) -> Tensor:
        """Elements of one effective tensor, counted row by row, as a vector."""
        if name in self._changes:
            return self.read_for_computing(name, start, stop)
        if name in self._replaced:
            return self.adapter.read_piece(self._replaced[name], start, stop)
        return self.base.read_piece(name, start, stop)

    def read_for_computing(self, name: str, start: int, stop: int) -> Tensor:
        """As ``read_piece``, in float32 (float64 where it is stored so); the vector is the caller's own."""
        if name in self._replaced:
            piece, own = for_computing(self.adapter.read_piece(self._replaced[name], start, stop)), False
        else:
            piece, own = read_for_computing(self.base, name, start, stop)
        piece = piece if own else piece.clone()
        if name in self._changes:
            self._changes[name](piece, start)
        return piece

    def digest(self) -> str:
        """Hex SHA-256 that names base and adapter together; a base in memory has no name."""
        base = self.base.digest() if hasattr(self.base, "digest") else ""
        return hashlib.sha256(f"{base} {self.adapter.digest()}".encode()).hexdigest()

    def _notes(self, base_folder: str | os.PathLike[str] | None) -> tuple[str, ...]:
        named = self.adapter.config.base_model
        if named is None or base_folder is None or Path(named).name == Path(base_folder).resolve().name:
            return ()
        return (
            f"{self.label}: the adapter was trained on {named!r}, and is put on {str(base_folder)!r}. Its "
            "numbers mean something only on the same weights.",
        )

    def _match_saved(self) -> dict[str, str]:
        """What the adapter stores whole, by the base's name; a head that the base lacks keeps its own."""
        replaced: dict[str, str] = {}
        for name, key in sorted(self.adapter.saved.items()):
            replaced[match_name(name, self.base.tensors) or name] = key
        return replaced

    def _add_low_rank(self, module: str, path: str, its: LowRank) -> None:
        name = self._weight(module, path)
        info = self._infos[name]
        rows, columns = info.shape[0], math.prod(info.shape[1:])
        stored = (its.num_outputs, its.num_inputs)
        swapped = its.is_embedding or (
            stored != (rows, columns) if rows != columns else self.adapter.config.fan_in_fan_out
        )
        self._swapped[module] = swapped
        if (stored[::-1] if swapped else stored) != (rows, columns):
            raise CheckpointError(
                f"{self.label}: the update of {module!r} is {stored}, but {name!r} of the base is "
                f"{info.shape}. Pass the base that the adapter was trained on."
            )
        self._mark_changed(name)
        folder, scaling = self.adapter, its.scaling

        def add_update(piece: Tensor, start: int) -> None:
            a, b = folder.factors(module)
            left, right = (a.T, b.T) if swapped else (b, a)
            add_product(piece, start, left, right, scaling=scaling)

        self._changes[name] = add_update
        if its.bias is not None:
            bias = f"{path}.bias"
            if bias not in self._infos:
                raise CheckpointError(
                    f"{self.label}: lora_B of {module!r} has a bias, but the base has no {bias!r} to add "
                    "it to. Merge the adapter into its base with peft (merge_and_unload)."
                )
            key = its.bias
            self._mark_changed(bias)
            self._changes[bias] = lambda piece, start: piece.add_(
                for_computing(folder.read(key))[start : start + piece.numel()], alpha=scaling
            )

    def _add_scaled(self, module: str, path: str, its: Scaled) -> None:
        name, bias = self._weight(module, path), f"{path}.bias"
        info = self._infos[name]
        swapped = self._is_swapped(info.shape, its)
        axis = int(its.on_inputs) ^ int(swapped)
        if len(info.shape) != 2 or info.shape[axis] != its.length:
            raise CheckpointError(
                f"{self.label}: the vector of {module!r} has {its.length} entries, but {name!r} of the "
                f"base is {info.shape}. Pass the base that the adapter was trained on."
            )
        folder, columns = self.adapter, info.shape[1]

        def scale(piece: Tensor, start: int) -> None:
            import torch

            numbers = torch.arange(start, start + piece.numel())
            vector = folder.vector(module).to(piece.dtype)
            piece.mul_(vector[numbers % columns if axis else numbers // columns])

        self._mark_changed(name)
        self._changes[name] = scale
        if not its.on_inputs and bias in self._infos:  # outputs are scaled after the bias was added
            self._mark_changed(bias)
            self._changes[bias] = lambda piece, start: piece.mul_(
                folder.vector(module).to(piece.dtype)[start : start + piece.numel()]
            )

    def _add_tokens(self, module: str, path: str, its: Tokens) -> None:
        name = self._weight(module, path)
        shape, rows = self._infos[name].shape, self.adapter.tensors[its.rows].shape
        if (
            len(shape) != 2
            or shape[1:] != rows[1:]
            or not 0 <= min(its.numbers) <= max(its.numbers) < shape[0]
        ):
            raise CheckpointError(
                f"{self.label}: the trained tokens of {module!r} are {rows} with numbers up to "
                f"{max(its.numbers)}, but {name!r} of the base is {shape}. Pass the base that the adapter "
                "was trained on, with its vocabulary."
            )
        if name in self._changes:
            raise CheckpointError(
                f"{self.label}: {name!r} has trained tokens and an update of low rank at once. Merge the "
                "adapter into its base with peft (merge_and_unload) and pass the whole model."
            )
        folder, columns = self.adapter, shape[1]

        def put_rows(piece: Tensor, start: int) -> None:
            stop = start + piece.numel()
            for number, row in zip(its.numbers, folder.read(its.rows), strict=True):
                low, high = max(start, number * columns), min(stop, (number + 1) * columns)
                if low < high:
                    piece[low - start : high - start] = row[low - number * columns : high - number * columns]

        self._mark_changed(name)
        self._changes[name] = put_rows

    def _is_swapped(self, shape: tuple[int, ...], its: Scaled) -> bool:
        """Whether an (IA)3 module's weight is stored (inputs, outputs); lengths decide where they can."""
        if len(shape) == 2 and shape[0] != shape[1] and its.length in shape:
            return shape.index(its.length) != int(its.on_inputs)
        return self.adapter.config.fan_in_fan_out

    def _weight(self, module: str, path: str) -> str:
        name = f"{path}.weight"
        if name not in self._infos:
            raise CheckpointError(
                f"{self.label}: the base has no {name!r}, which the adapter's module {module!r} changes. "
                "Pass the base that the adapter was trained on."
            )
        return name

    def _mark_changed(self, name: str) -> None:
        """Changed tensors are given in the precision that they are computed in."""
        info = self._infos[name]
        self._infos[name] = TensorInfo("F64" if info.dtype == "F64" else "F32", info.shape)


def add_product(piece: Tensor, start: int, left: Tensor, right: Tensor, *, scaling: float) -> None:
    """Add elements of ``scaling * left @ right`` to a vector of elements of a matrix, in place.

    An element comes out the same, bit for bit, in whichever piece it is asked for.

    Args:
        piece: elements of the matrix, counted row by row.
        start: number of the first.
        left: (rows, rank).
        right: (rank, columns).
        scaling: a factor.
    """
    import torch

    columns = right.shape[1]
    block = max(1, _BLOCK_ELEMENTS // columns)
    stop = start + piece.numel()
    left, right = left.to(piece.dtype), right.to(piece.dtype)
    buffer = piece.new_empty(block, columns)
    row = start // columns // block * block
    while row * columns < stop:
        rows = left[row : row + block]
        product = torch.mm(rows, right, out=buffer[: len(rows)]).view(-1)
        low, high = max(start, row * columns), min(stop, row * columns + product.numel())
        piece[low - start : high - start].add_(
            product[low - row * columns : high - row * columns], alpha=scaling
        )
        row += block
