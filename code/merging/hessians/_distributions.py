"""What a model's scores say about labels: the distributions that Fishers are taken of, by name.

A task type names its own (``merging.tasks.label_distribution``). Adding one is adding a module with these
functions and a line to ``load``.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Protocol

from merging.errors import UnknownNameError
from merging.hessians import _categorical, _gaussian
from merging.registry import unknown

if TYPE_CHECKING:  # estimators are looked up while graphs are built, where torch must not be imported
    from torch import Tensor

Key = tuple[int, int, int]
"""Seed, place of the example in the data set, number of the draw."""


class Distribution(Protocol):
    """p(label | scores). Shapes: B examples, R positions, C scores of each: (B, C) or (B, R, C)."""

    def counted(self, scores: Tensor, labels: Tensor | None) -> Tensor:
        """Return which positions predict something: bool, (B,) or (B, R)."""

    def draw(self, scores: Tensor, where: Tensor, keys: Sequence[Key]) -> Tensor:
        """Draw labels; each example has a key, so that neither other examples nor padding matter."""

    def score_gradient(self, scores: Tensor, labels: Tensor, where: Tensor) -> Tensor:
        """Return d log p(label) / d scores, shaped like ``scores``; zero outside ``where``."""

    def factors(self, scores: Tensor, where: Tensor) -> Iterator[Tensor]:
        """Yield v, shaped like ``scores``, whose outer products sum to the Fisher of the scores.

        One v has entries at one position of each example only, so that squares of sums hold no cross terms.
        """


_KNOWN: dict[str, Distribution] = {"categorical": _categorical, "gaussian": _gaussian}


def load(name: str) -> Distribution:
    """Return a distribution.

    Raises:
        UnknownNameError: there is no such distribution.
    """
    if name not in _KNOWN:
        raise UnknownNameError(unknown("label distribution", name, _KNOWN))
    return _KNOWN[name]
