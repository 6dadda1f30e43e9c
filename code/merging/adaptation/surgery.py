"""Representation surgery: a correction of each task's features (Yang et al., ICML 2024, arXiv:2402.02705).

    f' = f - U relu(D f)          D: (rank, p), U: (p, rank), no biases; U = 0 at the start: f' = f
    min over U_t, D_t of mean |f' - f_t|

f is the feature that the merged model gives to the head of task t, f_t that of the task's own model, on
unlabelled inputs. Nothing else is trained; a task costs 2 rank p numbers. Where a head is applied to every
position, so is the correction.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from merging.adaptation.options import SurgeryOptions
from merging.errors import CheckpointError, DivergenceError
from merging.merge.heads import is_head

WEIGHTS_NAME = "surgery.safetensors"
RECORD_NAME = "surgery.json"


class Surgery(nn.Module):
    """The correction of one task."""

    def __init__(self, down: Tensor, up: Tensor) -> None:
        """Take D, (rank, p), and U, (p, rank)."""
        super().__init__()
        self.down = nn.Parameter(down.clone())
        self.up = nn.Parameter(up.clone())

    @classmethod
    def start(cls, width: int, rank: int, *, seed: int, task: str) -> Surgery:
        """The correction that changes nothing: U = 0, D uniform within 1 / sqrt(p).

        Args:
            width: p.
            rank: rows of D.
            seed: of D; with the name of the task it decides.
            task: see ``seed``.
        """
        rng = np.random.default_rng([seed, *task.encode()])
        bound = 1 / math.sqrt(width)
        down = torch.from_numpy(rng.uniform(-bound, bound, (rank, width)))
        return cls(down.float(), torch.zeros(width, rank))

    def forward(self, features: Tensor) -> Tensor:
        """Correct features, (..., p)."""
        return features - (features @ self.down.T).relu() @ self.up.T


class SurgeryTraining:
    """The corrections of all tasks in training. A batch of one task changes that task's only."""

    def __init__(self, modules: Mapping[str, Surgery], options: SurgeryOptions) -> None:
        """Train ``modules``, by task, in place."""
        self.modules = dict(modules)
        self._options = options
        self._optimizers = {
            task: torch.optim.Adam(its.parameters(), lr=options.learning_rate, betas=options.betas)
            for task, its in self.modules.items()
        }

    def step(self, task: str, merged: Tensor, individual: Tensor, mask: Tensor | None = None) -> float:
        """One step of Adam on one batch.

        Args:
            task: whose correction.
            merged: features of the merged model, (..., p).
            individual: those of the task's own model.
            mask: bool, (...): the positions that count; None: all.

        Returns:
            Mean distance before the step, sum |f' - f_t| / (positions p).

        Raises:
            DivergenceError: it is NaN or infinite.
        """
        distances = (self.modules[task](merged.detach()) - individual.detach()).abs().mean(-1)
        loss = distances.mean() if mask is None else (distances * mask).sum() / mask.sum().clamp_min(1)
        value = float(loss.detach())
        if not math.isfinite(value):
            raise DivergenceError(
                f"surgery: the distance of task {task!r} is {value}. Lower learning_rate "
                f"({self._options.learning_rate}), or look at the features of the models."
            )
        optimizer = self._optimizers[task]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return value


def head_module(network: nn.Module) -> nn.Module:
    """The outermost module of a network that is its head.

    Raises:
        CheckpointError: no module is named like one.
    """
    name: str
    module: nn.Module
    for name, module in network.named_modules():
        if name and is_head(f"{name}."):
            return module
    raise CheckpointError(
        f"{type(network).__name__} has no head: no module is named like classifier or score. Surgery "
        "corrects what the head of a classifier reads."
    )


@contextmanager
def attached(network: nn.Module, surgery: nn.Module) -> Iterator[None]:
    """Correct what the head of a network reads while the block lasts."""

    def correct(_: nn.Module, arguments: tuple[Any, ...]) -> tuple[Any, ...]:
        return (surgery(arguments[0]), *arguments[1:])

    handle = head_module(network).register_forward_pre_hook(correct)
    try:
        yield
    finally:
        handle.remove()


@contextmanager
def features_of(network: nn.Module) -> Iterator[list[Tensor]]:
    """Collect what the head of a network reads while the block lasts; (..., p) for each forward pass."""
    found: list[Tensor] = []

    def collect(_: nn.Module, arguments: tuple[Any, ...]) -> None:
        found.append(arguments[0].detach())

    handle = head_module(network).register_forward_pre_hook(collect)
    try:
        yield found
    finally:
        handle.remove()


def save(folder: Path, modules: Mapping[str, Surgery], record: Mapping[str, Any]) -> None:
    """Write the corrections of all tasks into a model's folder, and what made them."""
    tensors = {
        f"{task}/{key}": its.detach().cpu().contiguous()
        for task, module in sorted(modules.items())
        for key, its in (("down", module.down), ("up", module.up))
    }
    save_file(tensors, folder / WEIGHTS_NAME)
    text = json.dumps({"tasks": sorted(modules), **record}, indent=2) + "\n"
    (folder / RECORD_NAME).write_text(text, encoding="utf-8")


def load(folder: Path) -> dict[str, Surgery]:
    """The corrections that lie in a model's folder, by task; empty where there are none.

    Raises:
        CheckpointError: weights and record don't fit.
    """
    if not (folder / RECORD_NAME).is_file():
        return {}
    tasks = json.loads((folder / RECORD_NAME).read_text(encoding="utf-8"))["tasks"]
    tensors = load_file(folder / WEIGHTS_NAME)
    missing = sorted(f"{task}/{key}" for task in tasks for key in ("down", "up"))
    if missing != sorted(tensors):
        raise CheckpointError(
            f"{folder / WEIGHTS_NAME} holds {sorted(tensors)}, its record says {missing}. Run the surgery "
            "again."
        )
    return {task: Surgery(tensors[f"{task}/down"], tensors[f"{task}/up"]) for task in tasks}
