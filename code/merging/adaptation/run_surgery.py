"""Representation surgery from end to end: a merged model and unlabelled data in, corrections beside it."""

from __future__ import annotations

import dataclasses
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from merging import tasks
from merging.adaptation import attachments, surgery
from merging.adaptation.batches import Inputs
from merging.adaptation.options import SurgeryOptions, check_unlabelled
from merging.adaptation.progress import Progress
from merging.adaptation.surgery import Surgery, SurgeryTraining
from merging.data import splits
from merging.files.checkpoints import check_disk_space, open_checkpoint
from merging.files.publishing import published_folder
from merging.merge import heads
from merging.merge.streaming import check_output
from merging.options import check_seed, parse


def operate(
    *,
    task_type: str,
    model: str | os.PathLike[str],
    models: Mapping[str, str | os.PathLike[str]],
    data: Mapping[str, Any],
    options: Mapping[str, Any],
    seed: int,
    out: str | os.PathLike[str],
    progress: str | os.PathLike[str] | None = None,
) -> None:
    """Learn a correction of each task's features, and publish the merged model with all of them.

    Runs on the GPU if there is one. ``merging.evaluation`` uses the correction of the task that it evaluates.
    Tasks don't depend on each other, and are gone through one by one.

    Args:
        task_type: a file in ``tasks/``.
        model: merged model folder; its weights stay as they are.
        models: model folder of each task, whose features are wanted.
        data: inputs of each task to learn from, see :func:`merging.data.splits.check_dataset`. Labels are
            not looked at. Not the test set, see ``allow_test_split``.
        options: fields of :class:`merging.adaptation.options.SurgeryOptions`.
        seed: of the batches, and of where the corrections start.
        out: model folder to publish: a copy of ``model`` with ``surgery.safetensors`` and ``surgery.json``.
        progress: file to which a JSON line is added every second; its steps are those of all tasks together.

    Raises:
        MergingError: its subclasses, before compute where that is possible.
    """
    parsed = parse(SurgeryOptions, options, owner="surgery")
    check_seed(seed, owner="surgery")
    check_unlabelled(data, models, parsed)
    check_output(Path(out), {"model": Path(model)} | {task: Path(its) for task, its in models.items()})
    modules: dict[str, Surgery] = {}
    curve = {}
    report = Progress(progress, num_steps=parsed.num_steps * len(models))
    for task in sorted(models):
        modules[task], curve[task] = _operate_on(
            task, task_type, str(model), str(models[task]), data[task], parsed, seed, report
        )
    record = {
        "settings": dataclasses.asdict(parsed),
        "task_type": task_type,
        "seed": seed,
        "data": {task: splits.describe(its) for task, its in sorted(data.items())},
        "curve": curve,
    }
    files = [path for path in Path(model).rglob("*") if path.is_file()]
    check_disk_space(Path(out), sum(path.stat().st_size for path in files))
    with published_folder(out) as folder:
        shutil.copytree(model, folder, dirs_exist_ok=True)
        surgery.save(folder, modules, record)


def _operate_on(
    name: str,
    task_type: str,
    merged: str,
    individual: str,
    dataset: Any,
    options: SurgeryOptions,
    seed: int,
    report: Progress,
) -> tuple[Surgery, list[float]]:
    """The correction of one task, and the mean distance of features in each round."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    task = tasks.load(task_type)
    checkpoint = open_checkpoint(merged, label="model")
    body = {key: checkpoint.read(key) for key in checkpoint.tensors}
    head = heads.folder_of(merged, name)
    whole = heads.with_head(body, head) if head != merged else body
    networks = [task.load_model(head, tensors=whole).to(device), task.load_model(individual).to(device)]
    attachments.complete(networks[0], merged)
    inputs = Inputs(
        dataset,
        name=name,
        task_type=task_type,
        task=task,
        processor=task.load_processor(model=merged),
        max_tokens=options.max_tokens,
        seed=seed,
    )
    training: SurgeryTraining | None = None
    curve = []
    for step in range(options.num_steps):
        distances = []
        for number in range(options.batches_per_step):
            columns, _ = inputs.batch(step, number, options.batch_size, device)
            features = []
            for network in networks:
                with torch.no_grad(), surgery.features_of(network) as found:
                    task.scores(network, columns)
                features.append(found[0])
            mask = columns.get("attention_mask")
            if mask is not None and mask.shape != features[0].shape[:-1]:
                mask = None  # of one feature for each example, all count
            if training is None:
                start = Surgery.start(features[0].shape[-1], options.rank, seed=seed, task=name)
                training = SurgeryTraining({name: start.to(device)}, options)
            distances.append(training.step(name, features[0], features[1], mask))
        curve.append(sum(distances) / len(distances))
        report.advance(curve[-1])
    assert training is not None, "num_steps is 1 or more"
    return training.modules[name], curve
