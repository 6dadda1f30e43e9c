"""Pearson correlation: how well predictions are a linear function of the references.

0 where either is constant: whoever always says the same is not correlated with anything.
"""

from __future__ import annotations

import numpy as np

from merging.evaluation.metrics import _numbers  # a class would be taken for the metric by evaluate.load


def score(predictions: np.ndarray, references: np.ndarray) -> float:
    """Return Pearson correlation, -1..1, of (N,) numbers."""
    first, second = (values.astype(np.float64) - values.mean() for values in (predictions, references))
    if not np.ptp(predictions) or not np.ptp(references):
        return 0.0
    return float(first @ second / (np.linalg.norm(first) * np.linalg.norm(second)))


class Metric(_numbers.NumberMetric):
    """``{"pearson": value}``."""

    NAME = "pearson"
    score = staticmethod(score)
