"""Heads of classifiers: kept beside a merged body, one for each task, and attached when it is used.

A merged model whose policy is ``head: per_task`` has a folder ``heads/<task>`` for each task, with the task's
``config.json`` (its labels) and the tensors of its head.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from merging.errors import CheckpointError, OptionError
from merging.files.checkpoints import open_checkpoint, whole_tensors, write_checkpoint

if TYPE_CHECKING:
    from torch import Tensor

    from merging.sources import Source

FOLDER = "heads"

_HEAD = re.compile(r"(^|\.)(classifier|score|classification_head|logits_proj|qa_outputs|head)\.")


def is_head(name: str) -> bool:
    """Whether a tensor belongs to a classifier, whose rows are labels; the output layer of a language model
    is none."""
    return _HEAD.search(name) is not None


def check_folder_names(tasks: Iterable[str]) -> None:
    """Refuse tasks whose ``heads/<task>`` would be another folder, perhaps outside of the model.

    Raises:
        OptionError: a name with a slash, or one of a folder itself.
    """
    for task in tasks:
        if task in ("", ".", "..") or re.search(r"[/\\\0]", task):
            raise OptionError(
                f"policy: head='per_task' makes a folder of each task's name, got {task!r}. Call the task "
                "by a name without slashes, e.g. 'sst2'."
            )


def write_heads(folder: Path, models: Mapping[str, Source], model_folders: Mapping[str, Path]) -> None:
    """Write ``heads/<task>`` into a merged model for every task.

    Args:
        folder: of the merged model.
        models: by task.
        model_folders: where their ``config.json`` lie, by task.

    Raises:
        CheckpointError: a model has no head.
    """
    for task, model in sorted(models.items()):
        tensors = {name: info for name, info in model.tensors.items() if is_head(name)}
        if not tensors:
            raise CheckpointError(
                f"{model.label} has no head: no tensor is named like classifier.weight or score.weight. "
                "The policy head='per_task' is for classifiers; use head='merge'."
            )
        place = folder / FOLDER / task
        place.mkdir(parents=True)
        shutil.copyfile(model_folders[task] / "config.json", place / "config.json")
        write_checkpoint(place, tensors, whole_tensors(model.read))


def folder_of(model: str | os.PathLike[str], task: str) -> str:
    """The folder whose config and head a task is evaluated with: the model's own, where it keeps none."""
    place = Path(model) / FOLDER / task
    return str(place) if (place / "config.json").is_file() else os.fspath(model)


def with_head(body: Mapping[str, Tensor], folder: str | os.PathLike[str]) -> dict[str, Tensor]:
    """All tensors of a model, with the head of the model in ``folder`` in place of its own."""
    head = open_checkpoint(folder, label="head")
    return {name: tensor for name, tensor in body.items() if not is_head(name)} | {
        name: head.read(name) for name in head.tensors if is_head(name)
    }
