"""Options of a training; checked while the graph is built."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from merging.errors import OptionError

Schedule = Literal[
    "linear",
    "cosine",
    "cosine_with_restarts",
    "polynomial",
    "constant",
    "constant_with_warmup",
    "inverse_sqrt",
]


@dataclass(frozen=True, kw_only=True)
class TrainingOptions:
    """AdamW on minibatches of a reshuffled training set; the loss is the task type's own."""

    learning_rate: float
    """Peak learning rate."""
    batch_size: int
    """Examples in one forward pass, over all devices together: GPUs are no part of the result."""
    num_epochs: int | None = None
    """Passes over the training set. Exactly one of this and ``max_steps`` is given."""
    max_steps: int | None = None
    """Optimizer steps."""
    gradient_accumulation_steps: int = 1
    """Batches whose gradients are averaged before each optimizer step."""
    warmup_steps: int = 0
    """Optimizer steps over which the learning rate rises from 0."""
    schedule: Schedule = "linear"
    """What the learning rate does after that; names are those of transformers."""
    weight_decay: float = 0.0
    """Decoupled weight decay; biases and norms are left out."""
    adam_beta1: float = 0.9
    adam_beta2: float = 0.999
    adam_epsilon: float = 1e-8
    max_grad_norm: float = 1.0
    """Gradients of greater norm are scaled down to it; 0 never."""
    max_tokens: int | None = None
    """Texts are cut to so many tokens; images need none."""
    dropout: float | None = None
    """Set in every dropout field of the model before it is built; None keeps the model's own."""
    precision: Literal["float32", "bf16", "fp16"] = "float32"
    """Of the forward and backward pass; weights and optimizer are float32 always."""
    best_by: Literal["loss", "metric"] = "loss"
    """What chooses the best epoch on the validation set: least loss, or greatest main metric."""
    early_stopping_patience: int | None = None
    """Stop after so many evaluations in a row that were not better than the best; None: never."""

    def __post_init__(self) -> None:
        if (self.num_epochs is None) == (self.max_steps is None):
            raise OptionError(
                f"give exactly one of num_epochs and max_steps, got {self.num_epochs} and {self.max_steps}."
            )
        for name in (
            "batch_size",
            "num_epochs",
            "max_steps",
            "gradient_accumulation_steps",
            "max_tokens",
            "early_stopping_patience",
        ):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise OptionError(f"{name} must be at least 1, got {value}.")
        for name in ("warmup_steps", "weight_decay", "max_grad_norm"):
            value = getattr(self, name)
            if not (0 <= value < math.inf):
                raise OptionError(f"{name} must be 0 or more, got {value}.")
        for name in ("learning_rate", "adam_epsilon"):
            if not 0 < getattr(self, name) < math.inf:
                raise OptionError(f"{name} must be greater than 0, got {getattr(self, name)}.")
        for name in ("adam_beta1", "adam_beta2", "dropout"):
            value = getattr(self, name)
            if value is not None and not 0 <= value < 1:
                raise OptionError(f"{name} must be in 0..1 (1 excluded), got {value}.")
