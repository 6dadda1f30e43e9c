"""Merge adapters of one base, to a dense model or to an adapter again.

============ ==========================================================================================
``dense``    any method on the effective weights; the result is a whole model
``svd``      the same, less the base, cut to a rank by SVD; the error is reported
``concat``   the exact weighted sum, of rank sum(r_t); for ``task_arithmetic`` and ``average``
``knots``    any method in the common frame of KnOTS (arXiv:2410.19735), of rank sum(r_t) at most
``factors``  an elementwise method on A and on s B, each with theta_0 = 0: has cross terms B_i A_j
``linear``   what peft calls "linear": roots of weights on both factors: has cross terms, too
``vectors``  any method on the vectors of (IA)3, with theta_0 = 1
============ ==========================================================================================

Without ``base``, a method sees the updates alone (theta_0 = 0), in modules that some adapter changes; with
it, ``svd`` is the difference of the dense merge. A module that an adapter lacks counts as unchanged.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

from merging import methods
from merging.adapters.extraction import Losses, check_rank
from merging.adapters.low_rank import Truncated, Update, concat, knots, linear, truncate
from merging.adapters.writing import Layout, write_lora, write_vectors
from merging.checkpoints import TensorInfo, torch_dtype
from merging.errors import CheckpointError, OptionError
from merging.publishing import published_folder
from merging.registry import unknown
from merging.sources import Source, for_computing
from merging.sources.adapter import AdapterSource, add_product
from merging.sources.adapter_folder import AdapterFolder, LowRank, Scaled, is_adapter
from merging.sources.opening import open_model
from merging.streaming import Call, merge_checkpoints, merge_tensors

if TYPE_CHECKING:
    from torch import Tensor

    from merging.tensor_merge import TensorMerge

Result = Literal["dense", "svd", "concat", "knots", "factors", "linear", "vectors"]
RESULTS: tuple[str, ...] = get_args(Result)
LINEAR_METHODS = ("average", "task_arithmetic")
"""Methods whose result is a sum of updates times numbers."""

RECORD_NAME = "merge.json"

_SAME_SETTINGS = ("task_type", "base_model_name_or_path", "revision", "fan_in_fan_out", "auto_mapping")

PathLike = str | os.PathLike[str]
Adapters = Mapping[str, AdapterFolder]
Saved = Literal["error", "average", "drop"]


def merge_adapters(
    *,
    method: str,
    options: Mapping[str, Any],
    adapters: Mapping[str, PathLike],
    out: PathLike,
    base: PathLike | None = None,
    result: Result = "dense",
    rank: int | None = None,
    saved: Saved = "error",
) -> Losses | None:
    """Merge adapters into a new folder, with a ``merge.json`` that says what was merged from what.

    Args:
        method: a file in ``merging/methods`` that needs no statistics.
        options: fields of its ``Options``; see ``merging.schedules``. Names in filters are
            ``<module>.weight`` (for factors ``<module>.lora_A`` and ``<module>.lora_B``).
        adapters: folder of each adapter by task.
        out: the folder to make.
        base: what they were trained on; needed for ``dense``.
        result: see the table of this module.
        rank: for ``svd``; by default the largest of the adapters' ranks.
        saved: what an adapter result does with tensors that adapters store whole (heads, biases) where they
            differ: an error, their mean over the adapters that have them, or leave them out. ``dense``
            merges them by the method.

    Returns:
        What truncation lost, for ``svd``.

    Raises:
        OptionError: a wrong option, or a result that does not go with method or adapters.
        CheckpointError: an adapter is damaged, of an unsupported kind, or does not fit the others.
    """
    _check_arguments(method, options, adapters, base, result, rank, saved)
    if result == "dense":
        merge_checkpoints(method=method, options=options, base=base, models=adapters, extras={}, out=out)
        return None
    opened = {task: AdapterFolder(adapters[task], label=f"models[{task!r}]") for task in sorted(adapters)}
    _check_alike(opened, result)
    whole = _saved_tensors(opened, saved)
    record: dict[str, Any] = {
        "method": method,
        "options": dict(options),
        "result": result,
        "adapters": {task: {"folder": str(its.folder), "hash": its.digest()} for task, its in opened.items()},
        "saved": {"policy": saved, "tensors": sorted(whole)},
    }
    losses: Losses | None = None
    if result == "vectors":
        vectors = _merge_vectors(method, options, opened)
        with published_folder(out) as folder:
            write_vectors(
                folder,
                vectors,
                on_inputs=_on_inputs(opened),
                saved=whole,
                settings=_settings(opened, whole),
            )
            _write_record(folder, record)
        return None
    updates: Mapping[str, Update]
    if result == "svd":
        rank = rank or max(its.rank for adapter in opened.values() for its in _low_ranks(adapter).values())
        cut = _truncated(method, options, opened, base, rank)
        updates = {module: its.update for module, its in cut.items()}
        losses = Losses.of(cut)
        record |= {"rank": rank, "relative_error": asdict(losses)}
    elif result == "knots":
        updates = _merge_in_frames(method, options, opened)
    elif result == "factors":
        updates = _merge_factors(method, options, opened)
    else:
        combine = concat if result == "concat" else linear
        updates = _combine(method, options, opened, combine)
    with published_folder(out) as folder:
        write_lora(
            folder,
            updates,
            layouts=_layouts(opened),
            saved=whole,
            settings=_settings(opened, whole),
            dtype=_dtype(opened),
        )
        _write_record(folder, record)
    return losses


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
        update = _update(self._adapter, module)
        return add_product(piece, start, update.b, update.a, scaling=update.scaling)


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


def _truncated(
    method: str,
    options: Mapping[str, Any],
    opened: Adapters,
    base: PathLike | None,
    rank: int,
) -> dict[str, Truncated]:
    """Each module's merged update, cut to a rank."""
    modules = _all_modules(opened)
    if method in LINEAR_METHODS:
        weights = combination_weights(method, options, modules, list(opened))
        sums_to_one = all(abs(sum(its) - 1) < 1e-9 for its in weights.values())
        if base is None or method != "average" or sums_to_one:  # else theta_0 itself is scaled
            return {
                module: truncate(concat(_of_module(opened, module), weights[module]), rank)
                for module in modules
            }
    if base is None:
        infos = {f"{module}.weight": TensorInfo("F32", _matrix_shape(opened, module)) for module in modules}
        zeros = _Zeros(infos)
        merge = _start(method, options, zeros, {task: _Updates(its, infos) for task, its in opened.items()})
        return {module: truncate(merge.tensor(f"{module}.weight"), rank) for module in modules}
    return _truncated_on_base(method, options, opened, open_model(base, label="base"), rank)


def _truncated_on_base(
    method: str, options: Mapping[str, Any], opened: Adapters, base: Source, rank: int
) -> dict[str, Truncated]:
    """As :func:`_truncated`, of the difference between the dense merge and the base."""
    sources = {task: AdapterSource(base, its.folder, label=its.label) for task, its in opened.items()}
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


def _combine(
    method: str,
    options: Mapping[str, Any],
    opened: Adapters,
    combine: Callable[[list[Update], list[float]], Update],
) -> dict[str, Update]:
    """Weighted sums of updates (or of factors)."""
    modules = _all_modules(opened)
    weights = combination_weights(method, options, modules, list(opened))
    return {module: combine(_of_module(opened, module), weights[module]) for module in modules}


def _merge_in_frames(method: str, options: Mapping[str, Any], opened: Adapters) -> dict[str, Update]:
    """KnOTS: merge the coordinates of each module's updates in their common frame."""
    frames = {
        module: knots(dict(zip(opened, _of_module(opened, module), strict=True)))
        for module in _all_modules(opened)
    }
    models = {
        task: {f"{module}.weight": frame.coordinates[task] for module, frame in frames.items()}
        for task in opened
    }
    merged = _merge_on_zeros(method, options, models)
    return {
        module: Update(a=merged[f"{module}.weight"], b=frame.directions) for module, frame in frames.items()
    }


def _merge_factors(method: str, options: Mapping[str, Any], opened: Adapters) -> dict[str, Update]:
    """A method on A and on s B."""
    if methods.granularity(method, methods.check_call(method, options, {}).common) != "elements":
        raise OptionError(
            f"adapters: result='factors' takes elementwise methods, and {method} is none. Use result='svd'."
        )
    models: dict[str, dict[str, Tensor]] = {task: {} for task in opened}
    modules = _all_modules(opened)
    for module in modules:
        updates = _of_module(opened, module)
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


def _merge_vectors(method: str, options: Mapping[str, Any], opened: Adapters) -> dict[str, Tensor]:
    """A method on the vectors of (IA)3; theta_0 and modules that an adapter lacks are ones."""
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
        extras={},
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


def _check_arguments(
    method: str,
    options: Mapping[str, Any],
    adapters: Mapping[str, PathLike],
    base: PathLike | None,
    result: str,
    rank: int | None,
    saved: str,
) -> None:
    """What can be said before anything is opened."""
    if result not in RESULTS:
        raise OptionError(f"adapters: {unknown('result', result, RESULTS)}.")
    if saved not in get_args(Saved):
        raise OptionError(f"adapters: {unknown('value of saved', saved, get_args(Saved))}.")
    if rank is not None:
        check_rank(rank)
        if result != "svd":
            raise OptionError(f"adapters: rank goes with result='svd', not with {result!r}. Leave it out.")
    if result == "dense" and base is None:
        raise OptionError(
            "adapters: result='dense' is a whole model and needs base, the model that the adapters were "
            "trained on. Pass it, or choose a result that is an adapter, such as 'svd'."
        )
    methods.check_call(method, options, {}, tasks=sorted(adapters), has_base=True)
    for task, folder in adapters.items():
        if not is_adapter(folder) and result != "dense":
            raise CheckpointError(
                f"models[{task!r}]: {folder} is no adapter. Only adapters can be merged to an adapter; pass "
                "result='dense', or make adapters of whole models with merging.adapters.as_adapter."
            )


def _check_alike(opened: Adapters, result: str) -> None:
    """Refuse adapters of another kind than the result, or that do not fit each other."""
    wanted = "IA3" if result == "vectors" else "LORA"
    shapes: dict[str, tuple[str, tuple[Any, ...]]] = {}
    for task, adapter in opened.items():
        if adapter.config.kind != wanted:
            other = "svd" if adapter.config.kind == "LORA" else "vectors"
            raise OptionError(
                f"adapters: result={result!r} is for {wanted}, but {adapter.label} is "
                f"{adapter.config.kind}. Use result={other!r}, or 'dense' for adapters of several kinds."
            )
        for module, its in adapter.modules.items():
            if isinstance(its, Scaled):
                shape: tuple[Any, ...] = (its.length, "inputs" if its.on_inputs else "outputs")
            else:
                shape = (its.num_outputs, its.num_inputs)
                if its.bias is not None:
                    raise CheckpointError(
                        f"{adapter.label}: lora_B of {module!r} has a bias, which no merged adapter can "
                        "hold. Use result='dense'."
                    )
            owner, known = shapes.setdefault(module, (adapter.label, shape))
            if known != shape:
                raise CheckpointError(
                    f"adapters differ: {module!r} is {known} in {owner} and {shape} in "
                    f"{opened[task].label}. Only adapters of one base can be merged."
                )


def _saved_tensors(opened: Adapters, policy: Saved) -> dict[str, Tensor]:
    """Tensors that adapters store whole, by their names in the file."""
    import torch

    owners: dict[str, list[Tensor]] = {}
    keys: dict[str, str] = {}
    for adapter in opened.values():
        for name, key in adapter.saved.items():
            owners.setdefault(name, []).append(adapter.read(key))
            keys.setdefault(name, key)
    found: dict[str, Tensor] = {}
    for name, tensors in sorted(owners.items()):
        if len(tensors) == len(opened) and all(torch.equal(tensors[0], its) for its in tensors[1:]):
            found[keys[name]] = tensors[0]
        elif policy == "error":
            raise OptionError(
                f"adapters: {name!r} is stored whole (modules_to_save, bias), and is not the same in all "
                "adapters. Pass saved='average' or 'drop', or result='dense' to merge it by the method."
            )
        elif policy == "average":
            if len({its.shape for its in tensors}) > 1:
                raise CheckpointError(
                    f"adapters differ: {name!r} is {', '.join(str(tuple(its.shape)) for its in tensors)}. "
                    "Pass saved='drop', and attach each task's head to the merged model."
                )
            mean = torch.stack([for_computing(its) for its in tensors]).mean(0)
            found[keys[name]] = mean.to(tensors[0].dtype)
    return found


def _settings(opened: Adapters, whole: Mapping[str, Tensor]) -> dict[str, Any]:
    """What the merged adapter's config says beside ranks and modules: where all say the same, the same."""
    configs = [adapter.config.raw for adapter in opened.values()]
    settings = {
        key: configs[0].get(key) if all(its.get(key) == configs[0].get(key) for its in configs) else None
        for key in _SAME_SETTINGS
    }
    to_save = sorted({module for its in configs for module in its.get("modules_to_save") or ()})
    biases = {its.get("bias", "none") for its in configs}
    settings["fan_in_fan_out"] = bool(configs[0].get("fan_in_fan_out"))
    if whole:
        settings["modules_to_save"] = to_save or None
        settings["bias"] = biases.pop() if len(biases) == 1 else "all"
    elif any(adapter.saved for adapter in opened.values()):
        settings["task_type"] = None  # peft expects a head in adapters for classification
    return settings


def _layouts(opened: Adapters) -> dict[str, Layout]:
    found: dict[str, Layout] = {}
    for adapter in opened.values():
        for module, its in _low_ranks(adapter).items():
            a, b = adapter.tensors[its.a].shape, adapter.tensors[its.b].shape
            found[module] = Layout(is_embedding=its.is_embedding, a_tail=a[1:], b_tail=b[2:])
    return found


def _dtype(opened: Adapters) -> Any:
    """The dtype of the first adapter's first factor."""
    adapter = next(iter(opened.values()))
    first = next(iter(_low_ranks(adapter).values()))
    return torch_dtype(adapter.tensors[first.a].dtype)


def _on_inputs(opened: Adapters) -> list[str]:
    return sorted(
        {
            module
            for adapter in opened.values()
            for module, its in adapter.modules.items()
            if isinstance(its, Scaled) and its.on_inputs
        }
    )


def _low_ranks(adapter: AdapterFolder) -> dict[str, LowRank]:
    return {module: its for module, its in adapter.modules.items() if isinstance(its, LowRank)}


def _all_modules(opened: Adapters) -> list[str]:
    return sorted({module for adapter in opened.values() for module in adapter.modules})


def _matrix_shape(opened: Adapters, module: str) -> tuple[int, int]:
    """(outputs, inputs) of a module that some adapter changes."""
    its = next(_low_ranks(adapter)[module] for adapter in opened.values() if module in adapter.modules)
    return its.num_outputs, its.num_inputs


def _update(adapter: AdapterFolder, module: str) -> Update:
    a, b = adapter.factors(module)
    return Update(a, b, _low_ranks(adapter)[module].scaling)


def _of_module(opened: Adapters, module: str) -> list[Update]:
    """Each adapter's update of a module; one of rank 0 where it has none."""
    import torch

    outputs, inputs = _matrix_shape(opened, module)
    nothing = Update(torch.zeros(0, inputs), torch.zeros(outputs, 0))
    return [_update(adapter, module) if module in adapter.modules else nothing for adapter in opened.values()]


def _write_record(folder: Path, record: Mapping[str, Any]) -> None:
    (folder / RECORD_NAME).write_text(json.dumps(record, indent=2) + "\n")
