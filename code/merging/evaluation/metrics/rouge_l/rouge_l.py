"""ROUGE-L: F1 of the longest common subsequence of words, averaged over texts (Lin, 2004).

As torchmetrics computes it, without a stemmer: words are runs of a-z and 0-9 in lower case, so that it is for
texts in Latin letters. Two empty texts agree.
"""

from __future__ import annotations

import numpy as np

from merging.evaluation.metrics import _written  # a class would be taken for the metric by evaluate.load

of_counts = _written.of_counts


def _of_pair(prediction: str, reference: str) -> float:
    from torchmetrics.functional.text import rouge_score

    if not prediction.strip() or not reference.strip():
        return float(prediction.strip() == reference.strip())
    return float(rouge_score(prediction, reference, rouge_keys="rougeL")["rougeL_fmeasure"])


def counts(predictions: np.ndarray, references: np.ndarray) -> np.ndarray:
    """Return (N, 2): the score of each pair of texts, and 1."""
    return _written.counts(_of_pair, predictions, references)


def score(predictions: np.ndarray, references: np.ndarray) -> float:
    """Return ROUGE-L, 0..1, of (N,) texts."""
    return of_counts(counts(predictions, references).sum(0))


class Metric(_written.TextMetric):
    """``{"rouge_l": value}``."""

    NAME = "rouge_l"
    score = staticmethod(score)
