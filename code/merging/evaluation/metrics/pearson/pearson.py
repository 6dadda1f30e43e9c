"""Pearson correlation: how well predictions are a linear function of the references.

0 where either is constant: whoever always says the same is not correlated with anything.
"""

from __future__ import annotations

import math

import numpy as np

from merging.evaluation.metrics import _numbers  # a class would be taken for the metric by evaluate.load

_ROUNDING = 1e-12


def counts(predictions: np.ndarray, references: np.ndarray) -> np.ndarray:
    """Return 1, both numbers, their squares and their product, (N, 6), of each of N examples."""
    x, y = (values.astype(np.float64) for values in (predictions, references))
    return np.stack([np.ones(len(x)), x, y, x * x, y * y, x * y], axis=1)


def of_counts(totals: np.ndarray) -> float:
    """Return the correlation from sums of ``counts``."""
    n, x, y, xx, yy, xy = (float(total) for total in totals)
    spread_x, spread_y = n * xx - x * x, n * yy - y * y
    if spread_x <= _ROUNDING * n * xx or spread_y <= _ROUNDING * n * yy:
        return 0.0
    return (n * xy - x * y) / math.sqrt(spread_x * spread_y)


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
