"""Mean squared error: the mean over examples of (prediction - reference)^2. The smaller the better."""

from __future__ import annotations

import numpy as np

from merging.evaluation.metrics import _numbers  # a class would be taken for the metric by evaluate.load

IS_SHARE = False
GREATER_IS_BETTER = False

GREATER_IS_BETTER = False
IS_SHARE = False


def score(predictions: np.ndarray, references: np.ndarray) -> float:
    """Return the mean squared error, 0 or more, of (N,) numbers."""
    return float(np.mean((predictions - references) ** 2))


class Metric(_numbers.NumberMetric):
    """``{"mean_squared_error": value}``."""

    NAME = "mean_squared_error"
    score = staticmethod(score)
