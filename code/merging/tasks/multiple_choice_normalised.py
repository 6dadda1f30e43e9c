"""The right one among the answers to a text, by mean log-likelihood of their tokens; see ``_choices.py``.

Sums prefer short answers; means do not. T-Few (Liu et al., NeurIPS 2022, arXiv:2205.05638) ranks so.
"""

from __future__ import annotations

from functools import partial

from merging.tasks import _choices
from merging.tasks._choices import (
    COLUMNS,
    MAIN_METRIC,
    METRICS,
    OPTIONAL_COLUMNS,
    build_model,
    check,
    collate,
    encode,
    label_names,
    load_model,
    load_processor,
    predictions,
)

__all__ = [
    "COLUMNS",
    "MAIN_METRIC",
    "METRICS",
    "OPTIONAL_COLUMNS",
    "build_model",
    "check",
    "collate",
    "encode",
    "label_names",
    "load_model",
    "load_processor",
    "loss",
    "predictions",
    "records",
    "scores",
]

scores = partial(_choices.scores, length_normalised=True)
loss = partial(_choices.loss, length_normalised=True)
records = partial(_choices.records, length_normalised=True)
