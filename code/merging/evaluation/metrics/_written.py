"""What metrics of texts share: each text has a score of its own, and the metric is their mean."""

from __future__ import annotations

import re
import string
from abc import abstractmethod
from collections.abc import Callable

import datasets
import numpy as np

from merging.evaluation.metrics import _local  # a class would be taken for the metric by evaluate.load

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_WITHOUT_PUNCTUATION = str.maketrans("", "", string.punctuation)


class TextMetric(_local.LocalMetric):
    """A metric of texts."""

    FEATURE = datasets.Value("string")
    WHAT = "texts"

    @staticmethod
    @abstractmethod
    def score(predictions: np.ndarray, references: np.ndarray) -> float:
        """Compare (N,) texts with (N,) texts."""


def words(text: str) -> list[str]:
    """Return the words of a text in lower case, without punctuation and English articles, as for SQuAD."""
    return _ARTICLES.sub(" ", text.lower().translate(_WITHOUT_PUNCTUATION)).split()


def counts(
    of_pair: Callable[[str, str], float], predictions: np.ndarray, references: np.ndarray
) -> np.ndarray:
    """Return (N, 2): the score of each pair of texts, and 1."""
    pairs = zip(predictions, references, strict=True)
    return np.array([(of_pair(str(prediction), str(reference)), 1.0) for prediction, reference in pairs])


def of_counts(sums: np.ndarray) -> float:
    """Return the mean from the sums of ``counts``."""
    return float(sums[0] / sums[1])
