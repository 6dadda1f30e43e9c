"""Options of an estimate; checked while the graph is built."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from merging.errors import OptionError


@dataclass(frozen=True, kw_only=True)
class HessianOptions:
    """How many examples an estimate sees, and in which portions. ``batch_size`` never changes the result."""

    batch_size: int = 32
    """Examples in one backward pass; only speed and memory depend on it."""
    max_examples: int | None = None
    """At most so many examples, drawn without replacement and stratified by label; None: all."""
    num_samples: int = 1
    """Label draws for each example (``fisher_mc``, ``kfac_mc``, ``block_mc``)."""
    max_tokens: int | None = None
    """Texts are cut to so many tokens; images need none."""
    kfac_scale: Literal["consistent", "reference"] = "consistent"
    """What G of K-FAC is (``kfac_mc``, ``kfac_empirical``). "consistent": the mean over examples of the sum
    over positions, for the loss summed over an example's predictions, so that tasks with long texts weigh as
    much as their Fishers do. "reference": both divided by the number of positions and the loss averaged over
    predictions, as in r-three/mats, which makes tasks with many predictions an example weigh less."""

    def __post_init__(self) -> None:
        for name in ("batch_size", "max_examples", "num_samples", "max_tokens"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise OptionError(f"{name} must be at least 1, got {value}.")
