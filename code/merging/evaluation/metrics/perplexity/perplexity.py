"""Perplexity: exp of minus the mean log-likelihood of a token, given the right tokens before it.

All tokens of all examples weigh the same. It depends on the tokenizer: only models with the same one compare.
"""

from __future__ import annotations

import datasets
import numpy as np

from merging.evaluation.metrics import _local  # a class would be taken for the metric by evaluate.load

FIELDS = ("log_likelihood", "num_tokens")
IS_SHARE = False
GREATER_IS_BETTER = False


def counts(predictions: np.ndarray, references: np.ndarray) -> np.ndarray:
    """Return (N, 2): log-likelihood (nats) and number of tokens of each example."""
    return np.stack([predictions, references], axis=-1).astype(np.float64)


def of_counts(sums: np.ndarray) -> float:
    """Return the metric from the sums of ``counts``."""
    return float(np.exp(-sums[0] / sums[1]))


def score(predictions: np.ndarray, references: np.ndarray) -> float:
    """Return perplexity, at least 1, from the (N,) log-likelihoods and numbers of tokens."""
    return of_counts(counts(predictions, references).sum(0))


class Metric(_local.LocalMetric):
    """``{"perplexity": value}``."""

    NAME = "perplexity"
    FEATURE = datasets.Value("float64")
    WHAT = "numbers of examples"
    score = staticmethod(score)
