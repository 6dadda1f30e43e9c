"""What metrics of numbers share, for ``evaluate``."""

from __future__ import annotations

import datasets

from merging.evaluation.metrics import _local  # a class would be taken for the metric by evaluate.load


class NumberMetric(_local.LocalMetric):
    """A metric of real numbers."""

    FEATURE = datasets.Value("float64")
    WHAT = "numbers"
