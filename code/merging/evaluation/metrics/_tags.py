"""What metrics of lists of tags share, for ``evaluate``."""

from __future__ import annotations

import datasets

from merging.evaluation.metrics import _local  # a class would be taken for the metric by evaluate.load


class TagMetric(_local.LocalMetric):
    """A metric of sentences, each a list with the tag of each word, by name."""

    FEATURE = datasets.List(datasets.Value("string"))
    WHAT = "for each sentence the list of the tags of its words"
