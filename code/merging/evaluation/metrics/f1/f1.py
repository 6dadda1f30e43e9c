"""Macro F1: the mean over classes of 2 TP / (2 TP + FP + FN).

Classes are those that occur among the references or the predictions, as in scikit-learn; each weighs the
same.
"""

from __future__ import annotations

import numpy as np

from merging.evaluation.metrics import _classes  # a class would be taken for the metric by evaluate.load


def score(predictions: np.ndarray, references: np.ndarray) -> float:
    """Return macro F1, 0..1, of (N,) class indices."""
    size = int(max(predictions.max(), references.max())) + 1
    true_positives = np.bincount(references[predictions == references], minlength=size)
    occurrences = np.bincount(predictions, minlength=size) + np.bincount(references, minlength=size)
    present = occurrences > 0  # 2 TP + FP + FN
    return float(np.mean(2 * true_positives[present] / occurrences[present]))


class Metric(_classes.ClassMetric):
    """``{"f1": value}``."""

    NAME = "f1"
    score = staticmethod(score)
