"""Exact match: the share of texts that are the reference.

Case, punctuation, English articles and blanks do not count, as for SQuAD (Rajpurkar et al., EMNLP 2016,
arXiv:1606.05250).
"""

from __future__ import annotations

import numpy as np

from merging.evaluation.metrics import _written  # a class would be taken for the metric by evaluate.load

of_counts = _written.of_counts


def _of_pair(prediction: str, reference: str) -> float:
    return float(_written.words(prediction) == _written.words(reference))


def counts(predictions: np.ndarray, references: np.ndarray) -> np.ndarray:
    """Return (N, 2): the score of each pair of texts, and 1."""
    return _written.counts(_of_pair, predictions, references)


def score(predictions: np.ndarray, references: np.ndarray) -> float:
    """Return exact match, 0..1, of (N,) texts."""
    return of_counts(counts(predictions, references).sum(0))


class Metric(_written.TextMetric):
    """``{"exact_match": value}``."""

    NAME = "exact_match"
    score = staticmethod(score)
