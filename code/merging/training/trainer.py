"""transformers' Trainer with what a task type may bring of its own: a loss, and records to be judged."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers import Trainer

from merging.evaluation import metrics
from merging.tasks import TaskType, WithLoss, WithRecords


class TaskTrainer(Trainer):  # type: ignore[misc]
    """The Trainer, going by the task type where it offers more than its models do."""

    def __init__(
        self,
        *,
        task: TaskType,
        processor: Any,
        label_names: Sequence[str],
        judge_records: bool,
        **arguments: Any,
    ) -> None:
        """Prepare a training.

        Args:
            task: the task type.
            processor: of the model.
            label_names: of the data.
            judge_records: compute the main metric of a task type that makes records at each evaluation. It
                takes a second pass over the validation set.
            arguments: those of ``transformers.Trainer``.
        """
        super().__init__(**arguments)
        self._task = task
        self._processor = processor
        self._task_label_names = tuple(label_names)
        self._judge_records = judge_records
        self._records: list[dict[str, Any]] = []

    def compute_loss(
        self,
        model: nn.Module,
        inputs: Mapping[str, Tensor],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        """Return the task type's loss of a batch, else the model's own."""
        if not isinstance(self._task, WithLoss):
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        loss = self._task.loss(model, inputs)
        return (loss, {}) if return_outputs else loss

    def prediction_step(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        prediction_loss_only: bool,
        ignore_keys: list[str] | None = None,
    ) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        """Return loss, scores and labels of a batch; only the loss where records are judged instead."""
        if not isinstance(self._task, WithRecords):
            result: tuple[Tensor | None, Tensor | None, Tensor | None] = super().prediction_step(
                model, inputs, prediction_loss_only, ignore_keys
            )
            return result
        prepared = self._prepare_inputs(inputs)
        with torch.no_grad(), self.compute_loss_context_manager():
            loss = self.compute_loss(model, prepared)
            if self._judge_records:
                bare = self.accelerator.unwrap_model(model)
                records = self._task.records(bare, prepared, self._processor, self._task_label_names)
                self._records += self.accelerator.gather_for_metrics(records, use_gather_object=True)
        return loss.detach(), None, None

    def evaluation_loop(self, *arguments: Any, **options: Any) -> Any:
        """Run the Trainer's own loop, and judge what was recorded in it."""
        self._records = []
        output = super().evaluation_loop(*arguments, **options)
        if self._records:
            name = self._task.MAIN_METRIC
            output.metrics[f"{options['metric_key_prefix']}_{name}"] = metrics.compute(
                name, *metrics.columns(name, self._records)
            )
        return output
