"""Entropy of predictions: what is minimised without labels, and how a collapse is noticed."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor


def mean_entropy(scores: Tensor, mask: Tensor | None = None) -> Tensor:
    """-sum_c p_c log p_c, the mean over examples or positions; a scalar that can be differentiated.

    Args:
        scores: logits, (..., C).
        mask: bool, (...): the positions that count; None: all.
    """
    log_p = scores.log_softmax(-1)
    entropies = -(log_p.exp() * log_p).sum(-1)
    if mask is None:
        return entropies.mean()
    return (entropies * mask).sum() / mask.sum().clamp_min(1)


def marginal(scores: Tensor, mask: Tensor | None = None) -> Tensor:
    """How often each class is predicted, (C,): the mean of the softmax over examples or positions."""
    p = scores.detach().softmax(-1).flatten(0, -2)
    if mask is not None:
        p = p[mask.flatten()]
    return p.mean(0) if len(p) else p.sum(0)


class CollapseMonitor:
    """Compares the entropy of the classes that are predicted with what it was at the start, by task.

    Low entropy of each prediction is what is learned; low entropy of their mean says that all inputs get one
    class. Means are taken over windows of steps, as one batch says little about the classes.
    """

    def __init__(self, *, window: int, share: float) -> None:
        """Look at every ``window`` steps; ``share`` of the start is too little."""
        self._window = window
        self._share = share
        self._sums: dict[str, Tensor] = {}
        self._num_steps = 0
        self.start: dict[str, float] = {}
        """Entropy of the mean prediction in the first window, by task."""
        self.last: dict[str, float] = {}
        """The same in the last window."""

    def add(self, marginals: Mapping[str, Tensor]) -> str | None:
        """Take one step's mean predictions of each task, (C,).

        Returns:
            At the end of a window, the first task by name that has collapsed, if there is one.
        """
        for task, its in marginals.items():
            self._sums[task] = self._sums[task] + its if task in self._sums else its
        self._num_steps += 1
        if self._num_steps < self._window:
            return None
        self.last = {task: _entropy(its / its.sum()) for task, its in sorted(self._sums.items())}
        self._sums, self._num_steps = {}, 0
        self.start = self.start or self.last
        return next((task for task, its in self.last.items() if its < self._share * self.start[task]), None)

    @property
    def is_window_end(self) -> bool:
        """Whether the last step ended a window."""
        return self._num_steps == 0


def _entropy(p: Tensor) -> float:
    return float(torch.special.entr(p.double()).sum())
