"""One training from end to end: a start and a training set in, a model folder out.

transformers' Trainer and accelerate do the steps, so ``torchrun -m merging train ...`` uses several GPUs,
on one node or several; each batch is shared between them. Checkpoints go to a work folder; a killed training
that is started again with the same arguments goes on from the last of them and ends, on a CPU, with the same
bits.
"""

from __future__ import annotations

import contextlib
import csv
import json
import os
import platform
import random
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import torch
import transformers
from transformers import TrainingArguments
from transformers.trainer_utils import EvalPrediction

from merging import models, tasks
from merging.data import encoded, splits
from merging.errors import DataError, DiskSpaceError, OptionError
from merging.evaluation import metrics
from merging.files.checkpoints import check_disk_space
from merging.files.publishing import is_disk_full, published_folder
from merging.options import check_seed, parse
from merging.tasks import TaskType, WithRecords
from merging.training.callbacks import BestEpoch, Guard, Progress, WholeCheckpoints, last_checkpoint
from merging.training.options import TrainingOptions
from merging.training.trainer import TaskTrainer

_EVAL_BATCH_FACTOR = 4  # evaluation keeps no activations for a backward pass
_NUM_LOGS = 50
_CLAIM = "training_claim.json"
_LOG_COLUMNS = {  # of training_log.csv -> of the Trainer's history
    "step": "step",
    "epoch": "epoch",
    "loss": "loss",
    "learning_rate": "learning_rate",
    "grad_norm": "grad_norm",
    "validation_loss": "eval_loss",
}


def train(
    *,
    task_type: str,
    model: str | os.PathLike[str] | None,
    architecture: Mapping[str, Any] | None,
    data: Any,
    validation: Any,
    options: Mapping[str, Any],
    seed: int,
    out: str | os.PathLike[str],
    work: str | os.PathLike[str] | None,
    checkpoint_steps: int = 500,
) -> None:
    """Train a model and publish it as a folder.

    Args:
        task_type: a file in ``tasks/``.
        model: folder or Hub id to start from, or None.
        architecture: settings of a new model, e.g. ``{"model_type": "vit", "hidden_size": 64}``, or None.
            Exactly one of ``model`` and ``architecture`` is given.
        data: training set, or a list of them: their concatenation (multitask); see
            :func:`merging.data.splits.check_dataset`.
        validation: chooses the best epoch; never give a test set. None: the last weights are taken.
        options: fields of :class:`merging.training.options.TrainingOptions`.
        seed: of new weights, order and dropout. The caller's generators are left as they were.
        out: model folder to publish: weights, config, processor, ``training.json``, ``training_log.csv``.
        work: folder of checkpoints and ``progress.jsonl``; may hold those of a killed run of the same
            training. None: :func:`work_folder`, which is removed at the end.
        checkpoint_steps: a checkpoint is written every so many steps; no influence on the result.

    Raises:
        MergingError: its subclasses, before compute where that is possible.
    """
    started = time.monotonic()
    parsed = parse(TrainingOptions, options, owner="training")
    check_seed(seed, owner="training")
    task = tasks.load(task_type)
    if (model is None) == (architecture is None):
        raise OptionError("training: give exactly one of model (start from it) and architecture (a new one).")
    if parsed.best_by == "metric" and validation is None:
        raise OptionError("training: best_by='metric' needs a validation set.")
    start = models.locate(model) if model is not None else None
    label_names = _label_names(task, data, validation)
    processor = task.load_processor(model=start, architecture=architecture)
    load = partial(
        encoded.load, task_type=task_type, processor=processor, max_tokens=parsed.max_tokens, labelled=True
    )
    train_rows = load(data)
    validation_rows = load(validation) if validation is not None else None
    record: dict[str, Any] = {
        "task_type": task_type,
        "model": start,
        "architecture": dict(architecture) if architecture is not None else None,
        "options": dict(options),
        "seed": seed,
        "num_train_examples": len(train_rows),
        "data": splits.describe(data),
        "validation": splits.describe(validation) if validation is not None else None,
        "label_names": list(label_names),
    }
    own_work, work = work is None, Path(work or work_folder(out)).resolve()
    with _generators_kept():
        network = task.build_model(
            model=start,
            architecture=architecture,
            label_names=label_names,
            dropout=parsed.dropout,
            seed=seed,
        )
        _check_space(work, Path(out), network.num_parameters(), len(train_rows), parsed, checkpoint_steps)
        _claim(work, record)
        arguments = _arguments(parsed, seed, work, checkpoint_steps, evaluate=validation is not None)
        best = BestEpoch(
            work,
            lambda folder: network.save_pretrained(folder),
            metric="eval_loss" if parsed.best_by == "loss" else f"eval_{task.MAIN_METRIC}",
            greater_is_better=parsed.best_by == "metric",
            patience=parsed.early_stopping_patience,
        )
        trainer = TaskTrainer(
            task=task,
            processor=processor,
            label_names=label_names,
            judge_records=parsed.best_by == "metric",
            model=network,
            args=arguments,
            train_dataset=train_rows,
            eval_dataset=validation_rows,
            data_collator=lambda rows: task.collate(rows, processor),
            compute_metrics=None if isinstance(task, WithRecords) else _main_metric(task, label_names),
            callbacks=[
                Guard(),
                best,
                WholeCheckpoints(),
                Progress(
                    work / "progress.jsonl",
                    examples_per_step=parsed.batch_size * parsed.gradient_accumulation_steps,
                ),
            ],
        )
        # A classifier takes extra arguments but ignores the Trainer's count of items: its loss is a mean.
        # Unless told, the Trainer would neither divide it by the accumulated batches nor average it over
        # devices.
        trainer.model_accepts_loss_kwargs = False
        trainer.remove_callback(transformers.trainer_callback.PrinterCallback)
        checkpoint = last_checkpoint(work)
        with models.quiet(), _disk_full_explained(work):
            trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    if not trainer.is_world_process_zero():
        return
    if (folder := best.folder()) is not None:
        network = task.load_model(str(folder))
    record |= {
        "num_processes": _num_processes(),
        "num_steps": trainer.state.global_step,
        "best": best.best(trainer.state),
        "seconds": round(time.monotonic() - started, 3),
        "versions": _versions(),
    }
    _publish(Path(out), network, processor, record, trainer.state.log_history, task.MAIN_METRIC)
    _clean(work)
    if own_work:
        shutil.rmtree(work)


def work_folder(out: str | os.PathLike[str]) -> Path:
    """Where a training of ``out`` keeps its checkpoints, unless it is told otherwise: beside it."""
    out = Path(out).resolve()
    return out.with_name(f"{out.name}.work")


def _label_names(task: TaskType, data: Any, validation: Any) -> tuple[str, ...]:
    """Return the label names of the training set, which the validation set must share."""
    names = task.label_names(splits.load(data))
    if validation is not None:
        others = task.label_names(splits.load(validation))
        if others != names:
            raise DataError(
                f"the training set has the labels {list(names)}, the validation set {list(others)}. "
                "Name and order them alike in data/sources.py."
            )
    return names


def _claim(work: Path, record: Mapping[str, Any]) -> None:
    """Make the work folder, or check that what lies in it is of this very training.

    Raises:
        OptionError: it holds another training.
    """
    work.mkdir(parents=True, exist_ok=True)
    file = work / _CLAIM
    mine = json.loads(json.dumps(record))
    try:
        theirs = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        temporary = file.with_suffix(f".{os.getpid()}")
        temporary.write_text(json.dumps(mine, indent=2) + "\n", encoding="utf-8")
        temporary.replace(file)
        return
    differing = sorted(key for key in mine if mine[key] != theirs.get(key))
    if differing:
        raise OptionError(
            f"work folder {work} holds a training with another {', '.join(differing)}. "
            "Give this training a folder of its own, or remove that one."
        )


def _num_processes() -> int:
    """How many processes the launcher (torchrun, accelerate launch) has started."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def _arguments(
    options: TrainingOptions, seed: int, work: Path, checkpoint_steps: int, *, evaluate: bool
) -> TrainingArguments:
    """Translate our options; whatever the Trainer would report to a service is off."""
    if options.precision == "fp16" and not torch.cuda.is_available():
        raise OptionError("precision 'fp16' needs a GPU; on this machine use 'float32' or 'bf16'.")
    num_processes = _num_processes()
    if options.batch_size % num_processes:
        raise OptionError(
            f"batch_size {options.batch_size} cannot be shared by {num_processes} processes; take a multiple."
        )
    per_device = options.batch_size // num_processes
    arguments = TrainingArguments(
        output_dir=str(work),
        num_train_epochs=options.num_epochs or 1,
        max_steps=options.max_steps or -1,
        learning_rate=options.learning_rate,
        per_device_train_batch_size=per_device,
        per_device_eval_batch_size=per_device * _EVAL_BATCH_FACTOR,
        gradient_accumulation_steps=options.gradient_accumulation_steps,
        warmup_steps=options.warmup_steps,
        lr_scheduler_type=options.schedule,
        weight_decay=options.weight_decay,
        adam_beta1=options.adam_beta1,
        adam_beta2=options.adam_beta2,
        adam_epsilon=options.adam_epsilon,
        max_grad_norm=options.max_grad_norm,
        bf16=options.precision == "bf16",
        use_cpu=not torch.accelerator.is_available(),
        fp16=options.precision == "fp16",
        eval_strategy="epoch" if evaluate else "no",
        save_strategy="steps",
        save_steps=checkpoint_steps,
        save_total_limit=2,  # the older one is whole while the newer is written
        logging_steps=1 / _NUM_LOGS,
        logging_nan_inf_filter=False,
        seed=seed,
        data_seed=seed,
        remove_unused_columns=False,
        label_names=["labels"],
        dataloader_pin_memory=torch.cuda.is_available(),
        report_to="none",
        disable_tqdm=True,
    )
    arguments._n_gpu = min(arguments.n_gpu, 1)  # several GPUs are for torchrun, not for DataParallel
    return arguments


def _check_space(
    work: Path, out: Path, num_parameters: int, num_rows: int, options: TrainingOptions, checkpoint_steps: int
) -> None:
    """Refuse to start what cannot be finished.

    In float32: the weights of the output, those of the best epoch (twice while the next replaces them), and
    up to three checkpoints of weights and two moments.

    Raises:
        DiskSpaceError: there is less room than that.
    """
    per_epoch = -(-num_rows // (options.batch_size * options.gradient_accumulation_steps))
    num_steps = options.max_steps or per_epoch * (options.num_epochs or 1)
    num_checkpoints = min(3, num_steps // checkpoint_steps)
    weights_bytes = 4 * num_parameters
    out.resolve().parent.mkdir(parents=True, exist_ok=True)
    check_disk_space(out.resolve().parent, weights_bytes)
    check_disk_space(work, weights_bytes * (2 + 3 * num_checkpoints))


@contextlib.contextmanager
def _disk_full_explained(work: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, RuntimeError, safetensors.SafetensorError) as error:
        if is_disk_full(error):
            raise DiskSpaceError(
                f"no room left for checkpoints in {work}. The last whole one is kept: "
                "free some space and start the training again, it goes on from there."
            ) from error
        raise


def _main_metric(
    task: TaskType, label_names: tuple[str, ...]
) -> Callable[[EvalPrediction], dict[str, float]]:
    """Return the Trainer's function from scores to the task type's main metric."""

    def compute(evaluation: EvalPrediction) -> dict[str, float]:
        records = task.predictions(evaluation.predictions, label_names)
        predictions = [record["prediction"] for record in records]
        return {task.MAIN_METRIC: metrics.compute(task.MAIN_METRIC, predictions, evaluation.label_ids)}

    return compute


def _publish(
    out: Path,
    network: Any,
    processor: Any,
    record: Mapping[str, Any],
    history: list[dict[str, Any]],
    main_metric: str,
) -> None:
    """Write the model folder: weights, config, processor, what made them, and the course of the loss."""
    columns = {**_LOG_COLUMNS, f"validation_{main_metric}": f"eval_{main_metric}"}
    by_step: dict[int, dict[str, Any]] = {}
    for entry in history:
        if "loss" in entry or "eval_loss" in entry:
            by_step.setdefault(entry["step"], {}).update(entry)
    with published_folder(out) as folder:
        with models.quiet():
            network.save_pretrained(folder)
            processor.save_pretrained(folder)
        text = json.dumps(record, indent=2) + "\n"
        (folder / "training.json").write_text(text, encoding="utf-8")
        with (folder / "training_log.csv").open("w", encoding="utf-8", newline="") as stream:
            table = csv.writer(stream)
            table.writerow(columns)
            for step in sorted(by_step):
                table.writerow([by_step[step].get(key, "") for key in columns.values()])


def _clean(work: Path) -> None:
    """Remove checkpoints and best weights, which the model folder makes superfluous."""
    for pattern in ("checkpoint-*", "best-*"):
        for folder in work.glob(pattern):
            shutil.rmtree(folder)
    (work / _CLAIM).unlink(missing_ok=True)


def _versions() -> dict[str, str]:
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "numpy": np.__version__,
    }


@contextlib.contextmanager
def _generators_kept() -> Iterator[None]:
    """Give the caller's random generators back as they were; the Trainer seeds all of them."""
    python, numpy = random.getstate(), np.random.get_state()
    with torch.random.fork_rng():
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy)
