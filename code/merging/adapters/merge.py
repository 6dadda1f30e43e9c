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
import platform
from collections.abc import Mapping
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal, get_args

from merging import methods
from merging.adapters.combining import (
    combined,
    merged_factors,
    merged_in_frames,
    merged_vectors,
    truncated,
)
from merging.adapters.extraction import Losses, check_rank
from merging.adapters.inherited import Saved, dtype_of, layouts_of, on_inputs, saved_tensors, settings_of
from merging.adapters.low_rank import Update, concat, linear
from merging.adapters.opened import Adapters, low_ranks
from merging.adapters.statistics import (
    Statistics,
    check_statistics,
    of_vectors,
    open_vector_statistics,
)
from merging.adapters.writing import write_lora, write_vectors
from merging.errors import CheckpointError, OptionError
from merging.files.publishing import published_folder
from merging.merge.model_card import described, write_card
from merging.merge.streaming import merge_checkpoints
from merging.registry import unknown
from merging.sources.adapter import AdapterSource
from merging.sources.adapter_folder import AdapterFolder, Scaled, is_adapter
from merging.sources.opening import open_model

Result = Literal["dense", "svd", "concat", "knots", "factors", "linear", "vectors"]
RESULTS: tuple[str, ...] = get_args(Result)

RECORD_NAME = "merge.json"

PathLike = str | os.PathLike[str]


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
    statistics: Statistics | None = None,
) -> Losses | None:
    """Merge adapters into a new folder, with a ``merge.json`` that says what was merged from what.

    Args:
        method: a file in ``merging/methods``; one that needs statistics with result "vectors" only.
        options: fields of its ``Options``; see ``merging.schedules``. Names in filters are
            ``<module>.weight`` (for factors ``<module>.lora_A`` and ``<module>.lora_B``).
        adapters: folder of each adapter by task.
        out: the folder to make.
        base: what they were trained on; needed for ``dense``. Where the result does not depend on it, it is
            only checked that the adapters fit it.
        result: see the table of this module.
        rank: for ``svd``; by default the largest of the adapters' ranks.
        saved: what an adapter result does with tensors that adapters store whole (heads, biases) where they
            differ: an error, their mean over the adapters that have them, or leave them out. ``dense``
            merges them by the method.
        statistics: ``{"blocks": {task: folder}}`` or ``{"hessians": ...}``: Hessian folders of the adapters,
            for result "vectors". Their means are multiplied by the sizes of the training sets; a folder with
            another factor is ``{"hessian": folder, "scale": 1.0}``.

    Returns:
        What truncation lost, for ``svd``.

    Raises:
        OptionError: a wrong option, or a result that does not go with method or adapters.
        CheckpointError: an adapter is damaged, of an unsupported kind, or does not fit the others.
    """
    statistics = statistics or {}
    _check_arguments(method, options, adapters, base, result, rank, saved, statistics)
    if result == "dense":
        merge_checkpoints(method=method, options=options, base=base, models=adapters, extras={}, out=out)
        return None
    opened = {task: AdapterFolder(adapters[task], label=f"models[{task!r}]") for task in sorted(adapters)}
    _check_alike(opened, result)
    sources = _on_base(base, opened)
    whole = saved_tensors(opened, saved)
    record: dict[str, Any] = {
        "method": method,
        "options": dict(options),
        "result": result,
        "tasks": list(opened),
        "saved": {"policy": saved, "tensors": sorted(whole)},
        "sources": _describe(base, opened, sources),
        "versions": {
            "python": platform.python_version(),
            **{package: version(package) for package in ("model-merging", "torch")},
        },
    }
    losses: Losses | None = None
    if result == "vectors":
        curvatures = open_vector_statistics(statistics, opened)
        record["sources"] |= {its.label: its.record() for its in curvatures}
        vectors = merged_vectors(method, options, opened, of_vectors(curvatures, opened))
        with published_folder(out) as folder:
            write_vectors(
                folder,
                vectors,
                on_inputs=on_inputs(opened),
                saved=whole,
                settings=settings_of(opened, whole),
            )
            _write_record(folder, record)
        return None
    updates: Mapping[str, Update]
    if result == "svd":
        rank = rank or max(its.rank for adapter in opened.values() for its in low_ranks(adapter).values())
        cut = truncated(method, options, opened, sources, rank)
        updates = {module: its.update for module, its in cut.items()}
        losses = Losses.of(cut)
        record |= {"rank": rank, "relative_error": asdict(losses)}
    elif result == "knots":
        updates = merged_in_frames(method, options, opened)
    elif result == "factors":
        updates = merged_factors(method, options, opened)
    else:
        combine = concat if result == "concat" else linear
        updates = combined(method, options, opened, combine)
    with published_folder(out) as folder:
        write_lora(
            folder,
            updates,
            layouts=layouts_of(opened),
            saved=whole,
            settings=settings_of(opened, whole),
            dtype=dtype_of(opened),
        )
        _write_record(folder, record)
    return losses


def _check_arguments(
    method: str,
    options: Mapping[str, Any],
    adapters: Mapping[str, PathLike],
    base: PathLike | None,
    result: str,
    rank: int | None,
    saved: str,
    statistics: Statistics,
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
    if result == "dense" and saved != "error":
        raise OptionError(
            f"adapters: saved={saved!r} goes with results that are adapters; 'dense' merges heads and "
            "biases by the method. Leave it out."
        )
    if result == "dense" and base is None:
        raise OptionError(
            "adapters: result='dense' is a whole model and needs base, the model that the adapters were "
            "trained on. Pass it, or choose a result that is an adapter, such as 'svd'."
        )
    check_statistics(statistics, result)
    methods.check_call(method, options, statistics, tasks=sorted(adapters), has_base=True)
    for task, folder in adapters.items():
        if not is_adapter(folder) and result != "dense":
            raise CheckpointError(
                f"models[{task!r}]: {folder} is no adapter. Only adapters can be merged to an adapter; pass "
                "result='dense', or make adapters of whole models with merging.adapters.as_adapter."
            )


def _on_base(base: PathLike | None, opened: Adapters) -> dict[str, AdapterSource] | None:
    """Each adapter on the base, by task, which also checks that it fits; None without a base."""
    if base is None:
        return None
    model = open_model(base, label="base")
    return {
        task: AdapterSource(model, its.folder, label=its.label, base_folder=base)
        for task, its in opened.items()
    }


def _describe(
    base: PathLike | None, opened: Adapters, sources: Mapping[str, AdapterSource] | None
) -> dict[str, Any]:
    """What ``merge.json`` says of each input."""
    found: dict[str, Any] = {}
    if base is not None:
        found["base"] = {"folder": str(base), "weights_hash": open_model(base, label="base").digest()}
    for task, its in opened.items():
        found[its.label] = {
            "folder": str(its.folder),
            "weights_hash": its.digest(),
            "base_model": its.config.base_model,
            "notes": list(sources[task].notes) if sources is not None else [],
        }
    return found


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
        if adapter.tokens:
            raise CheckpointError(
                f"{adapter.label}: single trained tokens of {min(adapter.tokens)!r} are in no merged "
                "adapter. Use result='dense'."
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


def _write_record(folder: Path, record: Mapping[str, Any]) -> None:
    record = {**record, "sources": described(record["sources"])}
    (folder / RECORD_NAME).write_text(json.dumps(record, indent=2) + "\n")
    write_card(folder)
