"""One merge, evaluated without being written."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from merging.errors import OptionError
from merging.evaluation.run import Evaluator
from merging.files.publishing import published_folder
from merging.merge.streaming import OpenMerge, open_merge

if TYPE_CHECKING:
    from torch import Tensor


def evaluate_merge(
    *,
    merge: Mapping[str, Any],
    task_type: str,
    data: Mapping[str, Any],
    options: Mapping[str, Any],
    out: str | os.PathLike[str],
) -> None:
    """Merge in memory, evaluate on all tasks, and keep no model: only what it predicted and how good that is.

    Args:
        merge: arguments of :func:`merging.merge.streaming.open_merge`.
        task_type: a file in ``tasks/``.
        data: test set of each task.
        options: fields of :class:`merging.evaluation.options.EvaluationOptions`.
        out: folder to publish: ``metrics.json``, ``predictions/<task>.jsonl`` and ``merge.json``.
    """
    opened = open_merge(**merge)
    evaluator = evaluator_for(opened, task_type=task_type, data=data, options=options)
    with published_folder(out) as folder:
        evaluator.run(
            merged_tensors(opened),
            predictions=folder / "predictions",
            metrics_file=folder / "metrics.json",
        )
        (folder / "merge.json").write_text(json.dumps(opened.record(), indent=2) + "\n", encoding="utf-8")


def evaluator_for(
    opened: OpenMerge, *, task_type: str, data: Mapping[str, Any], options: Mapping[str, Any]
) -> Evaluator:
    """An evaluator with the config, tokenizer and heads that a merge would be written with."""
    assert opened.files_from is not None
    if opened.alignment is not None and not opened.alignment.keeps_first:
        raise OptionError(
            "policy: the vocabulary of this merge is not the base's, so it cannot be evaluated in memory. "
            "Write it and evaluate the folder, or use the policy vocabulary='base'."
        )
    return Evaluator(
        task_type=task_type,
        model=opened.files_from,
        data=data,
        options=options,
        heads_from={task: Path(its) for task, its in (opened.heads_from or {}).items()},
    )


def merged_tensors(opened: OpenMerge) -> dict[str, Tensor]:
    """Every tensor of a merge, in memory."""
    import torch

    from merging.files.checkpoints import torch_dtype

    found = {
        name: torch.empty(info.num_elements, dtype=torch_dtype(info.dtype))
        for name, info in opened.infos.items()
    }

    def keep(name: str, start: int, values: Tensor) -> None:
        found[name][start : start + values.numel()] = values.reshape(-1)

    opened.run(opened.names, keep)
    return {name: tensor.reshape(opened.infos[name].shape) for name, tensor in found.items()}
