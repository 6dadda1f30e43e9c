"""Run a merge method over tensors that are read by name, and give the merged ones by name."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from types import ModuleType
from typing import TYPE_CHECKING, Any

from merging.checkpoints import torch_dtype
from merging.errors import OptionError
from merging.methods._weights import WeightRange
from merging.sources import Source, check_finite, for_computing
from merging.sources.statistics import HessianSource
from merging.tensor_plan import Plan

if TYPE_CHECKING:
    from torch import Tensor

PIECE = 2**18
"""Elements that an elementwise method gets at a time: all inputs of a piece fit into a processor's cache, and
memory is used again instead of asked for again, which is most of the time of a merge by whole tensors."""


class Parameter(Mapping[str, Any]):
    """The inputs of a method for one parameter, or for a piece of it; read when they are asked for."""

    def __init__(
        self, name: str, inputs: Mapping[str, Any], template: Source, *, piece: tuple[int, int] | None = None
    ) -> None:
        """Stand for a parameter.

        Args:
            name: of the parameter.
            inputs: by parameter of ``merge``: a source, or sources by task.
            template: gives the shape that all inputs get.
            piece: first and last (exclusive) element, counted row by row; then tensors are vectors.
        """
        self._name = name
        self._inputs = inputs
        self._template = template
        info = template.tensors[name]
        self._shape = info.shape if piece is None else None
        self.start, self.stop = piece or (0, info.num_elements)

    def __getitem__(self, key: str) -> Any:
        source = self._inputs[key]
        if isinstance(source, Mapping):
            return {task: self._read(its) for task, its in source.items()}
        return self._read(source)

    def __iter__(self) -> Iterator[str]:
        return iter(self._inputs)

    def __len__(self) -> int:
        return len(self._inputs)

    def _read(self, source: Source) -> Tensor:
        """One tensor or piece, ready for computing.

        Rows that the source lacks (``Policy.rows``) are as in the template, with no curvature; surplus rows
        are left out. Both are at the end, row by row. A parameter that no Hessian holds has no curvature.
        """
        import torch

        if self._name not in source.tensors:  # frozen in training: a Hessian has no such parameter
            shape = (self.stop - self.start,) if self._shape is None else self._shape
            return torch.zeros(shape)
        end = min(self.stop, source.tensors[self._name].num_elements)
        tensor = for_computing(source.read_piece(self._name, min(self.start, end), end))
        if end < self.stop:
            missing = for_computing(self._template.read_piece(self._name, max(self.start, end), self.stop))
            if isinstance(source, HessianSource):
                missing = torch.zeros_like(missing)
            tensor = torch.cat([tensor, missing])
        again = "Estimate" if isinstance(source, HessianSource) else "Train or download"
        check_finite(tensor, self._name, source.label, f"{again} it again.")
        return tensor if self._shape is None else tensor.reshape(self._shape)


class TensorMerge:
    """One merge in progress: gives the output tensor by tensor, and counts on the way."""

    def __init__(
        self,
        module: ModuleType,
        options: Any,
        plan: Plan,
        *,
        template: Source,
        models: Mapping[str, Source],
        inputs: Mapping[str, Source | Mapping[str, Source]],
        label_rows: Mapping[str, Sequence[int]] | None = None,
    ) -> None:
        """Take the whole-model numbers that the method asks for.

        Args:
            module: the method.
            options: its ``Options``.
            plan: what happens to each tensor.
            template: gives shapes and dtypes, and what is copied.
            models: by task; for what is averaged whatever the method.
            inputs: by parameter of the method's ``merge``.
            label_rows: see ``Policy``.
        """
        self._module = module
        self._options = options
        self._plan = plan
        self._template = template
        self._models = models
        self._inputs = inputs
        self._label_rows = label_rows or {}
        self._in_pieces = hasattr(module, "is_elementwise") and module.is_elementwise(options)
        parameters = inspect.signature(module.merge).parameters
        self._takes_summary, self._takes_watch = "summary" in parameters, "watch" in parameters
        self._hessians = [key for key in inputs if key not in ("base", "models")]
        self.num_without_curvature = 0
        """Merged elements in which every Hessian is zero, of the tensors given so far."""
        self.weights = WeightRange()
        """Combination weights of the tensors given so far, of methods that tell them."""
        sources = [its for key in self._hessians for its in _sources(inputs[key])]
        self.not_in_hessians = tuple(
            name for name in plan.merged if sources and not any(name in its.tensors for its in sources)
        )
        """Merged tensors that no Hessian holds, such as frozen ones; they count as without curvature."""
        self.summary: Any = None
        """Whole-model numbers of the method, or None."""
        if hasattr(module, "summarize"):
            pieces = (piece for name in plan.merged for piece in self._pieces(name))
            self.summary = module.summarize(pieces, options)

    def tensor(self, name: str) -> Tensor:
        """One tensor of the output, in the dtype and shape of the template.

        Raises:
            CheckpointError: an input or the result has NaN or infinite values.
        """
        import torch

        kept = self._plan.tied.get(name, name)
        if kept in self._plan.copied:
            return self._template.read(kept)
        info = self._template.tensors[kept]
        merged = torch.empty(info.shape, dtype=torch_dtype(info.dtype))
        if kept in self._plan.buffers:
            models = self._whole_models(kept)
            merged.copy_(torch.stack(list(models.values())).mean(0))
        elif kept in self._plan.heads:
            merged.copy_(self._merge_head(kept))
        else:
            num_without_curvature = self._merge_into(merged.view(-1), list(self._pieces(kept)))
            if kept == name:  # tied tensors count once
                self.num_without_curvature += num_without_curvature
        return check_finite(merged, kept, "merged model", f"Its dtype is {merged.dtype}; check the options.")

    def _pieces(self, name: str) -> Iterator[Parameter]:
        """A parameter as a whole, or piece by piece."""
        if not self._in_pieces:
            yield Parameter(name, self._inputs, self._template)
            return
        size = self._template.tensors[name].num_elements
        for start in range(0, size, PIECE):
            yield Parameter(name, self._inputs, self._template, piece=(start, min(start + PIECE, size)))

    def _merge_into(self, merged: Tensor, pieces: Sequence[Parameter]) -> int:
        """Run the method on all pieces of a parameter.

        Several pieces go on side by side, each on one thread: threads inside of operations as short as these
        would wait for each other most of the time.

        Returns:
            Number of elements without curvature.
        """
        import torch

        def merge(piece: Parameter) -> tuple[int, WeightRange]:
            inputs: dict[str, Any] = dict(piece)
            weights = WeightRange()  # of this piece only: others are merged at the same time
            num_without_curvature = self._count_without_curvature(inputs)
            if self._takes_summary:
                inputs["summary"] = self.summary
            if self._takes_watch:
                inputs["watch"] = weights
            result: Tensor = self._module.merge(**inputs, options=self._options)
            merged[piece.start : piece.stop] = result.reshape(-1)
            return num_without_curvature, weights

        num_threads = torch.get_num_threads()
        try:
            with ThreadPoolExecutor(num_threads, initializer=torch.set_num_threads, initargs=(1,)) as pool:
                counted = list(pool.map(merge, pieces))
        finally:
            torch.set_num_threads(num_threads)
        for _, weights in counted:
            self.weights.add(weights)
        return sum(num_without_curvature for num_without_curvature, _ in counted)

    def _count_without_curvature(self, inputs: Mapping[str, Any]) -> int:
        """Elements in which every Hessian is zero; 0 for methods without Hessians."""
        curvatures: list[Tensor] = []
        for key in self._hessians:
            value = inputs[key]
            curvatures.extend(value.values() if isinstance(value, Mapping) else [value])
        if not curvatures:
            return 0
        known = curvatures[0] != 0
        for curvature in curvatures[1:]:
            known.logical_or_(curvature)
        return known.numel() - int(known.count_nonzero())

    def _whole_models(self, name: str) -> dict[str, Tensor]:
        models: dict[str, Tensor] = Parameter(name, {"models": self._models}, self._template)["models"]
        return models

    def _merge_head(self, name: str) -> Tensor:
        """Each row is the mean over the models that know its label; a row that nobody knows is 0."""
        import torch

        models = self._whole_models(name)
        total = torch.zeros_like(next(iter(models.values())))
        num_owners = torch.zeros(len(total), dtype=total.dtype)
        for task, model in models.items():
            rows = sorted(set(self._label_rows[task]))
            if rows and not 0 <= rows[0] <= rows[-1] < len(model):
                raise OptionError(
                    f"policy: label_rows[{task!r}] is {list(self._label_rows[task])}, but {name!r} has "
                    f"{len(model)} rows."
                )
            total[rows] += model[rows]
            num_owners[rows] += 1
        return total / num_owners.clamp(min=1).reshape(-1, *[1] * (total.dim() - 1))


def _sources(value: Source | Mapping[str, Source]) -> list[Source]:
    """One input of a method as a list."""
    return list(value.values()) if isinstance(value, Mapping) else [value]
