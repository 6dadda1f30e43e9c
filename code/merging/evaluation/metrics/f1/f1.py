"""Macro F1: the mean over classes of 2 TP / (2 TP + FP + FN).

Classes are those that occur among the references or the predictions, as in scikit-learn; each weighs the
same.
"""

from __future__ import annotations

from typing import Any

import datasets
import evaluate
import numpy as np


def score(predictions: np.ndarray, references: np.ndarray) -> float:
    """Return macro F1, 0..1, of (N,) class indices."""
    size = int(max(predictions.max(), references.max())) + 1
    true_positives = np.bincount(references[predictions == references], minlength=size)
    occurrences = np.bincount(predictions, minlength=size) + np.bincount(references, minlength=size)
    present = occurrences > 0  # 2 TP + FP + FN
    return float(np.mean(2 * true_positives[present] / occurrences[present]))


class Metric(evaluate.Metric):  # type: ignore[misc]
    """``{"f1": value}``."""

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description=str(__doc__),
            citation="",
            inputs_description="predictions, references: class indices",
            features=datasets.Features(
                {"predictions": datasets.Value("int64"), "references": datasets.Value("int64")}
            ),
        )

    def _compute(self, predictions: Any, references: Any) -> dict[str, float]:
        return {"f1": score(np.asarray(predictions), np.asarray(references))}
