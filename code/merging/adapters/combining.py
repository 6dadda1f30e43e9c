"""Run merge methods on updates, on factors, in a common frame, or on vectors."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from merging import methods
from merging.adapters.low_rank import Truncated, Update, concat, knots, truncate
from merging.adapters.opened import Adapters, all_modules, matrix_shape, update_of, updates_of
from merging.errors import OptionError
from merging.files.checkpoints import TensorInfo
from merging.merge.streaming import Call, merge_tensors
from merging.sources import Source, for_computing
from merging.sources.adapter import AdapterSource, add_product
from merging.sources.adapter_folder import AdapterFolder, Scaled

if TYPE_CHECKING:
    from torch import Tensor

    from merging.merge.tensor_merge import TensorMerge

LINEAR_METHODS = ("average", "task_arithmetic")
"""Methods whose result is a sum of updates times numbers."""


def combination_weights(
    method: str, options: Mapping[str, Any], modules: list[str], tasks: list[str]
) -> dict[str, list[float]]:
    """The number that a linear method multiplies each task's update by, by module, in the order of tasks.

    They are what the method makes of unit vectors, so every option and schedule counts as it does in a merge.

    Raises:
        OptionError: the method is no weighted sum.
    """
    import torch

    if method not in LINEAR_METHODS:
        raise OptionError(
            f"adapters: only {' and '.join(LINEAR_METHODS)} are weighted sums of updates, which results "
            f"'concat' and 'linear' need; {method} is not. Use result='svd' or 'dense'."
        )
    units = torch.eye(len(tasks), dtype=torch.float64)
    names = {module: f"{module}.weight" for module in modules}
    merged = merge_tensors(
        method=method,
        options=options,
        base={name: torch.zeros_like(units[0]) for name in names.values()},
        models={task: dict.fromkeys(names.values(), unit) for task, unit in zip(tasks, units, strict=True)},
        extras={},
    )
    return {module: merged[name].tolist() for module, name in names.items()}


class _Updates:
    """The updates of one adapter as a source: its effective weights on a base of zeros."""

    def __init__(self, adapter: AdapterFolder, infos: Mapping[str, TensorInfo]) -> None:
        self.label = adapter.label
        self._adapter = adapter
        self.tensors = infos

    def read(self, name: str) -> Tensor:
        info = self.tensors[name]
        return self.read_piece(name, 0, info.num_elements).reshape(info.shape)

    def read_piece(self, name: str, start: int, stop: int) -> Tensor:
        import torch

        piece = torch.zeros(stop - start)
        module = name.removesuffix(".weight")
        if module not in self._adapter.modules:
            return piece
        update = update_of(self._adapter, module)
        add_product(piece, start, update.b, update.a, scaling=update.scaling)
        return piece


class _Zeros:
    """A base of zeros."""

    label = "base"

    def __init__(self, infos: Mapping[str, TensorInfo]) -> None:
        self.tensors = infos

    def read(self, name: str) -> Tensor:
        import torch

        return torch.zeros(self.tensors[name].shape)

    def read_piece(self, name: str, start: int, stop: int) -> Tensor:
        import torch

        return torch.zeros(stop - start)


def truncated(
    method: str,
    options: Mapping[str, Any],
    opened: Adapters,
    sources: Mapping[str, AdapterSource] | None,
    rank: int,
) -> dict[str, Truncated]:
    """Each module's merged update, cut to a rank.

    Args:
        method: any.
        options: its options.
        opened: the adapters.
        sources: the adapters on their base; None: the method sees the updates alone.
        rank: of the results.
    """
    modules = all_modules(opened)
    if method in LINEAR_METHODS:
        weights = combination_weights(method, options, modules, list(opened))
        sums_to_one = all(abs(sum(its) - 1) < 1e-9 for its in weights.values())
        if sources is None or method != "average" or sums_to_one:  # else theta_0 itself is scaled
            return {
                module: truncate(concat(updates_of(opened, module), weights[module]), rank)
                for module in modules
            }
    if sources is None:
        infos = {f"{module}.weight": TensorInfo("F32", matrix_shape(opened, module)) for module in modules}
        zeros = _Zeros(infos)
        merge = _start(method, options, zeros, {task: _Updates(its, infos) for task, its in opened.items()})
        return {module: truncate(merge.tensor(f"{module}.weight"), rank) for module in modules}
    return _truncated_on_base(method, options, sources, rank)


def _truncated_on_base(
    method: str, options: Mapping[str, Any], sources: Mapping[str, AdapterSource], rank: int
) -> dict[str, Truncated]:
    """As :func:`truncated`, of the difference between the dense merge and the base."""
    base = next(iter(sources.values())).base
    merge = _start(method, options, base, sources)
    cut: dict[str, Truncated] = {}
    for source in sources.values():
        for module, path in source.paths.items():
            if module in cut:
                continue
            name = f"{path}.weight"
            difference = merge.tensor(name) - for_computing(base.read(name))
            matrix = difference.T if source.is_swapped(module) else difference.reshape(len(difference), -1)
            cut[module] = truncate(matrix, rank)
    return cut


def _start(
    method: str, options: Mapping[str, Any], base: Source, models: Mapping[str, Source]
) -> TensorMerge:
    """A merge of sources whose results are not rounded; heads that the base lacks are no part of it."""
    call = Call.check(method, options, base, models, {}, {"on_missing": "base"})
    inputs: dict[str, Any] = {"base": base, **{its.label: its for its in models.values()}}
    return call.start(call.plan(inputs), inputs, dtype="F32")


def combined(
    method: str,
    options: Mapping[str, Any],
    opened: Adapters,
    combine: Callable[[list[Update], list[float]], Update],
) -> dict[str, Update]:
    """Weighted sums of updates (or of factors)."""
    modules = all_modules(opened)
    weights = combination_weights(method, options, modules, list(opened))
    return {module: combine(updates_of(opened, module), weights[module]) for module in modules}


def merged_in_frames(method: str, options: Mapping[str, Any], opened: Adapters) -> dict[str, Update]:
    """KnOTS: merge the coordinates of each module's updates in their common frame."""
    frames = {
        module: knots(dict(zip(opened, updates_of(opened, module), strict=True)))
        for module in all_modules(opened)
    }
    models = {
        task: {f"{module}.weight": frame.coordinates[task] for module, frame in frames.items()}
        for task in opened
    }
    merged = _merge_on_zeros(method, options, models)
    return {
        module: Update(a=merged[f"{module}.weight"], b=frame.directions) for module, frame in frames.items()
    }


def merged_factors(method: str, options: Mapping[str, Any], opened: Adapters) -> dict[str, Update]:
    """A method on A and on s B."""
    if methods.granularity(method, methods.check_call(method, options, {}).common) != "elements":
        raise OptionError(
            f"adapters: result='factors' takes elementwise methods, and {method} is none. Use result='svd'."
        )
    models: dict[str, dict[str, Tensor]] = {task: {} for task in opened}
    modules = all_modules(opened)
    for module in modules:
        updates = updates_of(opened, module)
        ranks = [its.rank for its in updates]
        if len(set(ranks)) > 1:
            raise OptionError(
                f"adapters: result='factors' needs one rank in all adapters, but {module!r} has the ranks "
                f"{ranks}. Use result='svd' or 'concat'."
            )
        for task, update in zip(opened, updates, strict=True):
            models[task][f"{module}.lora_A"] = update.a
            models[task][f"{module}.lora_B"] = update.b * update.scaling
    merged = _merge_on_zeros(method, options, models)
    return {module: Update(a=merged[f"{module}.lora_A"], b=merged[f"{module}.lora_B"]) for module in modules}


def merged_vectors(
    method: str, options: Mapping[str, Any], opened: Adapters, extras: Mapping[str, Any]
) -> dict[str, Tensor]:
    """A method on the vectors of (IA)3; theta_0 and modules that an adapter lacks are ones.

    ``extras`` are what else the method asks for, by ``<module>.weight``; see :func:`merge_tensors`.
    """
    import torch

    lengths = {
        module: its.length
        for adapter in opened.values()
        for module, its in adapter.modules.items()
        if isinstance(its, Scaled)
    }
    modules = sorted(lengths)
    names = {module: f"{module}.weight" for module in modules}
    merged = merge_tensors(
        method=method,
        options=options,
        base={names[module]: torch.ones(lengths[module]) for module in modules},
        models={
            task: {
                names[module]: adapter.vector(module)
                if module in adapter.modules
                else torch.ones(lengths[module])
                for module in modules
            }
            for task, adapter in opened.items()
        },
        extras=extras,
    )
    return {module: merged[names[module]] for module in modules}


def _merge_on_zeros(
    method: str, options: Mapping[str, Any], models: Mapping[str, Mapping[str, Tensor]]
) -> dict[str, Tensor]:
    """A merge in memory with theta_0 = 0."""
    import torch

    first = next(iter(models.values()))
    base = {name: torch.zeros_like(tensor) for name, tensor in first.items()}
    return merge_tensors(method=method, options=options, base=base, models=models, extras={})
