"""What our metrics share, for ``evaluate``: a metric is a name and a function of two arrays."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, ClassVar

import datasets
import evaluate
import numpy as np

from merging.evaluation import metrics


class LocalMetric(evaluate.Metric):  # type: ignore[misc]
    """``{NAME: score(predictions, references)}``."""

    NAME: ClassVar[str]
    FEATURE: ClassVar[Any]
    """Type of a prediction and of a reference, of ``datasets``."""
    WHAT: ClassVar[str]
    """The same in words."""

    @staticmethod
    @abstractmethod
    def score(predictions: np.ndarray, references: np.ndarray) -> float:
        """Compare (N,) predictions with (N,) references."""

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description=str(self.__doc__),
            citation="",
            inputs_description=f"predictions, references: {self.WHAT}",
            features=datasets.Features({"predictions": self.FEATURE, "references": self.FEATURE}),
        )

    def _compute(self, predictions: Any, references: Any) -> dict[str, float]:
        return {self.NAME: self.score(metrics.column(predictions), metrics.column(references))}
