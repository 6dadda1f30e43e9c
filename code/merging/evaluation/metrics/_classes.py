"""What metrics of class indices share, for ``evaluate``."""

from __future__ import annotations

import datasets

from merging.evaluation.metrics import _local  # a class would be taken for the metric by evaluate.load


class ClassMetric(_local.LocalMetric):
    """A metric of class indices."""

    FEATURE = datasets.Value("int64")
    WHAT = "class indices"
