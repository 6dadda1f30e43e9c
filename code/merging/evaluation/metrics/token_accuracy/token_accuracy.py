"""Token accuracy: the share of tokens that are the likeliest ones after the right tokens before them.

All tokens of all examples weigh the same.
"""

from __future__ import annotations

import datasets
import numpy as np

from merging.evaluation.metrics import _local  # a class would be taken for the metric by evaluate.load

FIELDS = ("num_correct", "num_tokens")


def counts(predictions: np.ndarray, references: np.ndarray) -> np.ndarray:
    """Return (N, 2): right tokens and all tokens of each example."""
    return np.stack([predictions, references], axis=-1).astype(np.float64)


def of_counts(sums: np.ndarray) -> float:
    """Return the metric from the sums of ``counts``."""
    return float(sums[0] / sums[1])


def score(predictions: np.ndarray, references: np.ndarray) -> float:
    """Return token accuracy, 0..1, from the (N,) numbers of right tokens and of all tokens."""
    return of_counts(counts(predictions, references).sum(0))


class Metric(_local.LocalMetric):
    """``{"token_accuracy": value}``."""

    NAME = "token_accuracy"
    FEATURE = datasets.Value("float64")
    WHAT = "numbers of examples"
    score = staticmethod(score)
