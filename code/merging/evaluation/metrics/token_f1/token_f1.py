"""Token F1: the harmonic mean of precision and recall over the words of a text, averaged over texts.

Words are compared as a bag, without case, punctuation and English articles, as for SQuAD (Rajpurkar et al.,
EMNLP 2016, arXiv:1606.05250). Two texts without words agree.
"""

from __future__ import annotations

from collections import Counter

import numpy as np

from merging.evaluation.metrics import _written  # a class would be taken for the metric by evaluate.load

of_counts = _written.of_counts


def _of_pair(prediction: str, reference: str) -> float:
    ours, theirs = _written.words(prediction), _written.words(reference)
    if not ours or not theirs:
        return float(ours == theirs)
    common = sum((Counter(ours) & Counter(theirs)).values())
    return 2 * common / (len(ours) + len(theirs))


def counts(predictions: np.ndarray, references: np.ndarray) -> np.ndarray:
    """Return (N, 2): the score of each pair of texts, and 1."""
    return _written.counts(_of_pair, predictions, references)


def score(predictions: np.ndarray, references: np.ndarray) -> float:
    """Return token F1, 0..1, of (N,) texts."""
    return of_counts(counts(predictions, references).sum(0))


class Metric(_written.TextMetric):
    """``{"token_f1": value}``."""

    NAME = "token_f1"
    score = staticmethod(score)
