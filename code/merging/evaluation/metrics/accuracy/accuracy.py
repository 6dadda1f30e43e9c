"""Accuracy: the share of predictions that are right."""

from __future__ import annotations

import numpy as np

from merging.evaluation.metrics import _classes  # a class would be taken for the metric by evaluate.load


def score(predictions: np.ndarray, references: np.ndarray) -> float:
    """Return accuracy, 0..1, of (N,) class indices."""
    return float(np.mean(predictions == references))


class Metric(_classes.ClassMetric):
    """``{"accuracy": value}``."""

    NAME = "accuracy"
    score = staticmethod(score)
