"""What a merge says of its combination weights: their range, by task."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from torch import Tensor


class Watch(Protocol):
    """Is told, once for each task and piece, by what a model or its difference to the base is multiplied."""

    def __call__(self, task: str, weights: Tensor | float, *, factor: float = 1.0) -> None:
        """Look at ``factor * weights``; an empty piece says nothing."""


class WeightRange:
    """Smallest and largest combination weight of each task; a ``Watch``."""

    def __init__(self) -> None:
        """Begin without having seen any."""
        self.by_task: dict[str, tuple[float, float]] = {}
        """Smallest and largest, by task."""

    def __call__(self, task: str, weights: Tensor | float, *, factor: float = 1.0) -> None:
        """Widen the range of a task."""
        if isinstance(weights, float | int):
            ends = [weights * factor]
        elif weights.numel():
            # twice as fast as aminmax, which is not vectorised
            ends = [float(weights.amin()) * factor, float(weights.amax()) * factor]
        else:
            return
        self._widen(task, ends)

    def add(self, other: WeightRange) -> None:
        """Widen the ranges by those of another part of the model."""
        for task, ends in other.by_task.items():
            self._widen(task, ends)

    def _widen(self, task: str, ends: Iterable[float]) -> None:
        known = [*self.by_task.get(task, ()), *ends]
        self.by_task[task] = (min(known), max(known))
