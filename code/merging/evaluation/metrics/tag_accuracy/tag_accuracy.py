"""Tag accuracy: the share of words, of all sentences together, whose tag is right."""

from __future__ import annotations

import numpy as np

from merging.evaluation.metrics import _tags  # a class would be taken for the metric by evaluate.load


def counts(predictions: np.ndarray, references: np.ndarray) -> np.ndarray:
    """Return right words and words, (N, 2), of each of N sentences."""
    return np.array(
        [
            [sum(ours == true for ours, true in zip(predicted, right, strict=True)), len(right)]
            for predicted, right in zip(predictions, references, strict=True)
        ]
    )


def of_counts(totals: np.ndarray) -> float:
    """Return the accuracy, 0..1, from right words and words; 0 without words."""
    right, words = totals
    return float(right / words) if words else 0.0


def score(predictions: np.ndarray, references: np.ndarray) -> float:
    """Return the accuracy, 0..1, of (N,) lists of tags."""
    return of_counts(counts(predictions, references).sum(0))


class Metric(_tags.TagMetric):
    """``{"tag_accuracy": value}``."""

    NAME = "tag_accuracy"
    score = staticmethod(score)
