"""Accuracy: the share of predictions that are right."""

from __future__ import annotations

from typing import Any

import datasets
import evaluate
import numpy as np


def score(predictions: np.ndarray, references: np.ndarray) -> float:
    """Return accuracy, 0..1, of (N,) class indices."""
    return float(np.mean(predictions == references))


class Metric(evaluate.Metric):  # type: ignore[misc]
    """``{"accuracy": value}``."""

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
        return {"accuracy": score(np.asarray(predictions), np.asarray(references))}
