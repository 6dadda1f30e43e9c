"""What merging that learns from unlabelled inputs can be told; checked while the graph is built."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from merging.errors import OptionError


@dataclass(frozen=True, kw_only=True)
class AdaptationOptions:
    """What all of them share: batches, steps, and the guard against test data."""

    num_steps: int
    """Rounds over all tasks."""
    batch_size: int = 16
    """Examples of one task in a forward pass; part of the result."""
    learning_rate: float = 1e-3
    """Of Adam."""
    betas: tuple[float, float] = (0.9, 0.999)
    """Decay of Adam's two moments."""
    max_tokens: int | None = None
    """Texts are cut to so many tokens; images need none."""
    allow_test_split: bool = False
    """Whether the inputs to learn from may be those of a split "test". The papers learn on the very inputs
    that they report on; by default that is refused, so that a score stays one on unseen inputs."""

    def __post_init__(self) -> None:
        owner = self._owner()
        for name in ("num_steps", "batch_size"):
            if getattr(self, name) < 1:
                raise OptionError(f"{owner}: {name} must be 1 or more, got {getattr(self, name)}.")
        if self.max_tokens is not None and self.max_tokens < 1:
            raise OptionError(f"{owner}: max_tokens must be None or 1 or more, got {self.max_tokens}.")
        if not 0 < self.learning_rate < math.inf:
            raise OptionError(
                f"{owner}: learning_rate must be > 0 and finite, got {self.learning_rate}. Adam starts at "
                "0.001 in the paper."
            )
        if not all(0 <= beta < 1 for beta in self.betas):
            raise OptionError(f"{owner}: betas must be >= 0 and < 1, got {self.betas}.")

    @classmethod
    def _owner(cls) -> str:
        return cls.__name__.removesuffix("Options").lower()


@dataclass(frozen=True, kw_only=True)
class AdaMergingOptions(AdaptationOptions):
    """How coefficients are learned (Yang et al., ICLR 2024, arXiv:2310.02575)."""

    granularity: Literal["tensor", "task"] = "tensor"
    """One coefficient for each task and tensor (each weight and bias; the paper's layer-wise AdaMerging), or
    one for each task."""
    plus: bool = False
    """AdaMerging++: task vectors are trimmed, and only entries with the elected sign are kept."""
    density: float = 0.2
    """Share of each task vector that AdaMerging++ keeps, over the whole model."""
    initial: float = 0.3
    """Every coefficient at the start."""
    clamp: tuple[float, float] | None = (0.0, 1.0)
    """Interval to which coefficients are cut where they are used. What has left it gets no gradient any more
    and moves by Adam's momentum only. None: no interval."""
    num_steps: int = 500
    """Steps of Adam."""
    batches_per_step: int = 2
    """Batches of each task whose entropies are added up in one step."""
    monitor_steps: int = 20
    """Steps over which the classes that a task predicts are averaged to notice a collapse."""
    collapse: float = 0.5
    """Stop when the entropy of the predicted classes of a task falls below this share of what it was at the
    start: the model then says one class whatever the input. 0: never."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("batches_per_step", "monitor_steps"):
            if getattr(self, name) < 1:
                raise OptionError(f"adamerging: {name} must be 1 or more, got {getattr(self, name)}.")
        if not 0 < self.density <= 1:
            raise OptionError(
                f"adamerging: density must be > 0 and <= 1, got {self.density}. It is a fraction, not a "
                "percentage."
            )
        if not math.isfinite(self.initial):
            raise OptionError(f"adamerging: initial must be finite, got {self.initial}.")
        if self.clamp is not None and not self.clamp[0] < self.clamp[1]:
            raise OptionError(
                f"adamerging: clamp must be (low, high) with low < high, or None, got {self.clamp}."
            )
        if not 0 <= self.collapse < 1:
            raise OptionError(f"adamerging: collapse must be >= 0 and < 1, got {self.collapse}.")

    @property
    def method(self) -> str:
        """The merge method that the coefficients are for."""
        return "task_arithmetic_ties" if self.plus else "task_arithmetic"

    def method_options(self, scaling_factor: Any) -> dict[str, Any]:
        """Options of that method with these coefficients."""
        return {"scaling_factor": scaling_factor} | ({"density": self.density} if self.plus else {})


@dataclass(frozen=True, kw_only=True)
class SurgeryOptions(AdaptationOptions):
    """How features are corrected (Yang et al., ICML 2024, arXiv:2402.02705)."""

    rank: int = 16
    """Rows of the projection; a task costs 2 rank p numbers for features of p numbers."""
    num_steps: int = 500
    """Rounds over all tasks."""
    batches_per_step: int = 2
    """Batches of each task in one round; each is one step of Adam."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("rank", "batches_per_step"):
            if getattr(self, name) < 1:
                raise OptionError(f"surgery: {name} must be 1 or more, got {getattr(self, name)}.")


@dataclass(frozen=True, kw_only=True)
class WemoeOptions(AdaptationOptions):
    """How MLPs are chosen between (Tang et al., ICML 2024, arXiv:2402.00433)."""

    initial: float = 0.3
    """Coefficient of task arithmetic outside of the MLPs, and of the gates at the start."""
    depth: Literal[0, 1, 2] = 2
    """Layers of a gate; 0: a constant for each task."""
    num_steps: int = 1000
    """Steps of Adam, on one batch of every task each."""
    schedule: Literal["cosine", "constant"] = "cosine"
    """Whether the learning rate goes down to 0."""
    pooling: Literal["real", "all"] = "real"
    """Tokens whose gates are averaged: without padding, or with it."""
    batch_reduce: bool = False
    """Average the gates over the batch, too; then a prediction depends on what else is in its batch."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not math.isfinite(self.initial):
            raise OptionError(f"wemoe: initial must be finite, got {self.initial}.")


def check_unlabelled(data: Mapping[str, Any], tasks: Mapping[str, Any], options: AdaptationOptions) -> None:
    """Check the inputs to learn from, as far as no data are needed.

    Args:
        data: unlabelled data set of each task; see :func:`merging.data.splits.check_dataset`.
        tasks: the models, by task.
        options: whether test splits are allowed.

    Raises:
        OptionError: other tasks than there are models, or a test split.
    """
    from merging.data import splits

    if set(data) != set(tasks):
        raise OptionError(
            f"adaptation: data names the tasks {sorted(data)}, but the models are {sorted(tasks)}. Every "
            "task needs inputs to learn from."
        )
    for task, dataset in sorted(data.items()):
        splits.check_dataset(dataset)
        for item in dataset if isinstance(dataset, list | tuple) else [dataset]:
            names = [part.name for part in splits.parse(item["split"])]
            if "test" in names and not options.allow_test_split:
                raise OptionError(
                    f"adaptation: data[{task!r}] is of the split {item['split']!r}. What is learned on test "
                    "inputs cannot be tested on them: give e.g. 'validation', or set allow_test_split=True "
                    "to do as the papers do."
                )
