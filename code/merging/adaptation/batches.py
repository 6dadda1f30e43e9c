"""Unlabelled inputs of a task, in batches that depend on the seed, the step and the task only."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from merging.data import encoded

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from merging.tasks import TaskType


class Inputs:
    """What one task's model is run on; labels are dropped before anything sees them."""

    def __init__(
        self,
        dataset: Any,
        *,
        name: str,
        task_type: str,
        task: TaskType,
        processor: Any,
        max_tokens: int | None,
        seed: int,
    ) -> None:
        """Read and encode a data set.

        Args:
            dataset: see :func:`merging.data.splits.check_dataset`.
            name: of the task; part of what the batches depend on.
            task_type: a file in ``tasks/``.
            task: the same, loaded.
            processor: of the model.
            max_tokens: longer texts are cut.
            seed: of the batches.
        """
        self._rows = encoded.load(
            dataset, task_type=task_type, processor=processor, max_tokens=max_tokens, labelled=False
        )
        self._name = name
        self._task = task
        self._processor = processor
        self._seed = seed

    def __len__(self) -> int:
        return len(self._rows)

    def batch(
        self, step: int, number: int, size: int, device: torch.device
    ) -> tuple[dict[str, Tensor], Tensor | None]:
        """Draw one batch without replacement; all rows, where there are fewer than ``size``.

        Returns:
            Arguments of the model, and which positions of its scores count: bool, (B, R), or None where an
            example has one prediction.
        """
        entropy = [self._seed, step, number, *self._name.encode()]
        rng = np.random.default_rng(entropy)
        chosen = rng.choice(len(self._rows), min(size, len(self._rows)), replace=False)
        collated = self._task.collate([self._rows[int(row)] for row in chosen], self._processor)
        inputs = {key: value.to(device) for key, value in collated.items()}
        labels = inputs.pop("labels", None)
        return inputs, labels != -100 if labels is not None and labels.ndim > 1 else None
