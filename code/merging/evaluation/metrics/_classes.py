"""What metrics of class indices share, for ``evaluate``: a metric is a name and a function of two arrays."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, ClassVar

import datasets
import evaluate
import numpy as np


class ClassMetric(evaluate.Metric):  # type: ignore[misc]
    """``{NAME: score(predictions, references)}``."""

    NAME: ClassVar[str]

    @staticmethod
    @abstractmethod
    def score(predictions: np.ndarray, references: np.ndarray) -> float:
        """Compare (N,) predicted with (N,) true class indices."""

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description=str(self.__doc__),
            citation="",
            inputs_description="predictions, references: class indices",
            features=datasets.Features(
                {"predictions": datasets.Value("int64"), "references": datasets.Value("int64")}
            ),
        )

    def _compute(self, predictions: Any, references: Any) -> dict[str, float]:
        return {self.NAME: self.score(np.asarray(predictions), np.asarray(references))}
