"""What happens beside the optimizer steps: progress, the best epoch, early stop, a guard against divergence.

Every decision is a function of the Trainer's own history, which its checkpoints carry, so a resumed
training decides as an undisturbed one does.
"""

from __future__ import annotations

import json
import math
import shutil
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from merging.errors import DivergenceError
from merging.files.publishing import published_folder

_BEST = "best-"
_CHECKPOINT = "checkpoint-"  # the Trainer's name
_WHOLE = "whole"


class Progress(TrainerCallback):  # type: ignore[misc]
    """Appends a JSON line to a file at each logging step: where the training is, how fast, how long still."""

    def __init__(self, file: Path, *, examples_per_step: int) -> None:
        """Write to ``file``; a step means so many examples over all devices."""
        self._file = file
        self._examples_per_step = examples_per_step
        self._started: tuple[float, int] = (0.0, 0)

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Start the clock; a resumed training measures its own steps only."""
        self._started = (time.monotonic(), state.global_step)

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        """Write a line for a training loss."""
        if logs is None or "loss" not in logs or not state.is_world_process_zero:
            return
        seconds = time.monotonic() - self._started[0]
        steps_per_s = (state.global_step - self._started[1]) / max(seconds, 1e-9)
        line = {
            "step": state.global_step,
            "total_steps": state.max_steps,
            "epoch": state.epoch,
            "loss": logs["loss"],
            "learning_rate": logs.get("learning_rate"),
            "examples_per_s": round(steps_per_s * self._examples_per_step, 2),
            "seconds_left": round((state.max_steps - state.global_step) / max(steps_per_s, 1e-9), 1),
        }
        with self._file.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(line) + "\n")


class Guard(TrainerCallback):  # type: ignore[misc]
    """Stops a training whose loss is no longer a number: every step after that is wasted."""

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        """Check losses and gradient norms.

        Raises:
            DivergenceError: one of them is NaN or infinite.
        """
        for name in ("loss", "eval_loss", "grad_norm"):
            value = (logs or {}).get(name)
            if value is not None and not math.isfinite(value):
                raise DivergenceError(
                    f"training diverged: {name} is {value} at step {state.global_step}. "
                    "Lower the learning rate, add warmup_steps or lower max_grad_norm; "
                    "with precision fp16, try bf16 or float32."
                )


class WholeCheckpoints(TrainerCallback):  # type: ignore[misc]
    """Marks each checkpoint once it is written to its end; a killed run may leave half of one."""

    def on_save(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Mark the checkpoint of this step."""
        if state.is_world_process_zero:
            (Path(args.output_dir) / f"{_CHECKPOINT}{state.global_step}" / _WHOLE).touch()


def last_checkpoint(work: Path) -> Path | None:
    """Return the newest whole checkpoint, None without one; remove halves of others."""
    whole = []
    for folder in work.glob(f"{_CHECKPOINT}*"):
        if (folder / _WHOLE).exists():
            whole.append(folder)
        else:
            shutil.rmtree(folder, ignore_errors=True)  # each process of a distributed training does it
    return max(whole, key=lambda folder: int(folder.name.removeprefix(_CHECKPOINT)), default=None)


class BestEpoch(TrainerCallback):  # type: ignore[misc]
    """Keeps the weights of the best evaluation, and stops when patience is over.

    A folder ``best-<step>`` appears complete or not at all; the newest is the best. The first of equal
    epochs wins.
    """

    def __init__(
        self,
        work: Path,
        save: Callable[[Path], None],
        *,
        metric: str,
        greater_is_better: bool,
        patience: int | None,
    ) -> None:
        """Judge by the evaluations' ``metric``; ``save`` writes the weights into a folder."""
        self._work = work
        self._save = save
        self._metric = metric
        self._sign = 1.0 if greater_is_better else -1.0
        self._patience = patience

    def on_evaluate(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Save if this was the best evaluation so far; ask for a stop if the best is too long ago."""
        scores = [self._sign * entry[self._metric] for entry in evaluations(state)]
        best = first_best(scores)
        if best == len(scores) - 1 and state.is_world_process_zero:
            before = self._folders()
            place = self._work / f"{_BEST}{state.global_step}"
            if place not in before:  # a killed run may have been here: these are the same weights
                with published_folder(place) as folder:
                    self._save(folder)
            for old in before:
                if old != place:
                    shutil.rmtree(old)
        if self._patience is not None and len(scores) - 1 - best >= self._patience:
            control.should_training_stop = True

    def folder(self) -> Path | None:
        """The weights of the best evaluation; None before the first."""
        folders = self._folders()
        return folders[-1] if folders else None

    def best(self, state: TrainerState) -> dict[str, Any] | None:
        """Step, epoch, validation loss and metric of the best evaluation; None before the first."""
        entries = evaluations(state)
        if not entries:
            return None
        best = entries[first_best([self._sign * entry[self._metric] for entry in entries])]
        timing = ("eval_runtime", "eval_samples_per_second", "eval_steps_per_second")
        return {key: value for key, value in best.items() if key not in timing}

    def _folders(self) -> list[Path]:
        return sorted(self._work.glob(f"{_BEST}*"), key=lambda folder: int(folder.name.removeprefix(_BEST)))


def evaluations(state: TrainerState) -> list[dict[str, Any]]:
    """Evaluation entries of a Trainer's history, in order, one for each step."""
    by_step = {entry["step"]: entry for entry in state.log_history if "eval_loss" in entry}
    return [by_step[step] for step in sorted(by_step)]


def first_best(scores: Sequence[float]) -> int:
    """Position of the greatest score; of equal ones the first."""
    return max(range(len(scores)), key=lambda index: scores[index])
