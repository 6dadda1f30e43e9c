"""Spearman correlation: Pearson's, of ranks; equal values share the mean of their ranks.

0 where either is constant: whoever always says the same is not correlated with anything.
"""

from __future__ import annotations

import numpy as np
from scipy.stats import rankdata

from merging.evaluation.metrics import _numbers  # a class would be taken for the metric by evaluate.load
from merging.evaluation.metrics.pearson import pearson


def score(predictions: np.ndarray, references: np.ndarray) -> float:
    """Return Spearman correlation, -1..1, of (N,) numbers."""
    return pearson.score(rankdata(predictions), rankdata(references))


class Metric(_numbers.NumberMetric):
    """``{"spearman": value}``."""

    NAME = "spearman"
    score = staticmethod(score)
