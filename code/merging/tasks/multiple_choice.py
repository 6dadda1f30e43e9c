"""The right one among the answers to a text, ranked by their log-likelihoods; see ``_choices.py``."""

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

scores = partial(_choices.scores, length_normalised=False)
loss = partial(_choices.loss, length_normalised=False)
records = partial(_choices.records, length_normalised=False)
