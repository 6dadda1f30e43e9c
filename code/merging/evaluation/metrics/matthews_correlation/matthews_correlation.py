"""Matthews correlation, for any number of classes (Gorodkin 2004).

With c right of s examples, p_k predictions and t_k references of class k:

    (c s - sum_k p_k t_k) / sqrt((s^2 - sum_k p_k^2) (s^2 - sum_k t_k^2))

0 where the denominator is 0: whoever always says the same is not correlated with anything.
"""

from __future__ import annotations

import numpy as np

from merging.evaluation.metrics import _classes  # a class would be taken for the metric by evaluate.load


def score(predictions: np.ndarray, references: np.ndarray) -> float:
    """Return Matthews correlation, -1..1, of (N,) class indices."""
    size = int(max(predictions.max(), references.max())) + 1
    predicted = np.bincount(predictions, minlength=size).astype(np.float64)
    true = np.bincount(references, minlength=size).astype(np.float64)
    total = float(len(references))
    spread = (total**2 - predicted @ predicted) * (total**2 - true @ true)
    if spread == 0:
        return 0.0
    right = float(np.sum(predictions == references))
    return float((right * total - predicted @ true) / np.sqrt(spread))


class Metric(_classes.ClassMetric):
    """``{"matthews_correlation": value}``."""

    NAME = "matthews_correlation"
    score = staticmethod(score)
