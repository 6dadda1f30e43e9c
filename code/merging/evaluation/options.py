"""Options of an evaluation; checked while the graph is built."""

from __future__ import annotations

from dataclasses import dataclass

from merging.errors import OptionError
from merging.evaluation import metrics
from merging.options import check_seed


@dataclass(frozen=True, kw_only=True)
class PredictionOptions:
    """How a model is run."""

    batch_size: int = 32
    """Examples in one forward pass; no influence on the result but for rounding."""
    max_tokens: int | None = None
    """Texts are cut to so many tokens; images need none."""
    max_new_tokens: int = 64
    """Texts that a model writes (``seq2seq``, ``causal_lm``) are cut to so many tokens."""

    def __post_init__(self) -> None:
        _check_positive(
            batch_size=self.batch_size, max_tokens=self.max_tokens, max_new_tokens=self.max_new_tokens
        )


@dataclass(frozen=True, kw_only=True)
class EvaluationOptions(PredictionOptions):
    """What is measured, and how sure we are."""

    metrics: tuple[str, ...] | None = None
    """Folders in ``evaluation/metrics``; None: those of the task type."""
    bootstrap_samples: int = 1000
    """Resamplings behind each 95 % interval."""
    seed: int = 0
    """Of the resampling."""

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_positive(bootstrap_samples=self.bootstrap_samples)
        check_seed(self.seed, owner="evaluation")
        if self.metrics is not None and not self.metrics:
            raise OptionError(
                f"metrics is empty. Known: {', '.join(metrics.names())}; None takes the task type's."
            )
        for name in self.metrics or ():
            metrics.check(name)


def _check_positive(**counts: int | None) -> None:
    """Raise OptionError for a number below 1; None is none."""
    for name, value in counts.items():
        if value is not None and value < 1:
            raise OptionError(f"{name} must be at least 1, got {value}.")
