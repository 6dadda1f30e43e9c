"""One number for a text or a pair of texts, read off a ``...ForSequenceClassification`` model with one score.

The score is the mean of a Gaussian of unit variance, which is what the squared error that trains it assumes:
its Fishers are of that distribution. Numbers are taken as they are; bring them to about unit scale if the
tasks that are merged have others, for curvature grows with the square of the scale.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from merging import models
from merging.errors import CheckpointError, DataError
from merging.tasks import sequence_classification
from merging.tasks._classes import LABEL, check_columns, scores
from merging.tasks._texts import check_strings, load_tokenizer

if TYPE_CHECKING:
    import datasets
    import numpy as np
    import transformers
    from torch import Tensor

__all__ = [
    "build_model",
    "check",
    "collate",
    "encode",
    "label_names",
    "load_model",
    "load_processor",
    "predictions",
    "scores",
]

COLUMNS: tuple[str, ...] = ("text",)
OPTIONAL_COLUMNS: tuple[str, ...] = ("text_pair",)
METRICS: tuple[str, ...] = ("pearson", "spearman", "mean_squared_error")
MAIN_METRIC: str = "pearson"
LABEL_DISTRIBUTION: str = "gaussian"
_AUTO_CLASS = "AutoModelForSequenceClassification"
_NAMES = ("value",)
"""The name of the one score: what a head of this task type has in place of names of classes."""

build_model = partial(models.build_classifier, _AUTO_CLASS, problem_type="regression")
encode = sequence_classification.encode


def load_model(
    folder: str | os.PathLike[str], *, tensors: Mapping[str, Tensor] | None = None
) -> transformers.PreTrainedModel:
    """As :func:`merging.models.load`.

    Raises:
        CheckpointError: also for a model with several scores.
    """
    model = models.load(_AUTO_CLASS, folder, tensors=tensors)
    if model.config.num_labels != 1:
        names = list(model.config.id2label.values())
        raise CheckpointError(
            f"{folder} has {len(names)} scores for a text, {names}; regression reads one. Is its task type "
            "sequence_classification?"
        )
    return model


def check(dataset: datasets.Dataset, *, labelled: bool = True) -> None:
    """Raise DataError unless the texts are strings and, if ``labelled``, every label is a finite number."""
    import numpy as np

    check_columns(dataset, (*COLUMNS, LABEL) if labelled else COLUMNS)
    check_strings(dataset, (*COLUMNS, *OPTIONAL_COLUMNS))
    if not labelled:
        return
    feature = dataset.features[LABEL]
    if not str(getattr(feature, "dtype", "")).startswith("float"):
        raise DataError(
            f"column {LABEL!r} is {feature!r}; regression needs numbers of type float. Write labels as 1.0, "
            "not 1, in the source; classes are for sequence_classification."
        )
    values = np.array(dataset[LABEL][:], dtype=np.float64)  # None becomes NaN
    wrong = np.flatnonzero(~np.isfinite(values))
    if len(wrong):
        raise DataError(
            f"label {values[wrong[0]]} of row {wrong[0]} is no finite number ({len(wrong)} such rows). "
            "Remove the rows, or mend the labels."
        )


def label_names(dataset: datasets.Dataset) -> tuple[str, ...]:
    """Return the name of the one score."""
    return _NAMES


def load_processor(*, model: str | None, architecture: Mapping[str, Any] | None = None) -> Any:
    """Return the tokenizer of ``model``.

    Raises:
        OptionError: there is only an architecture; a tokenizer cannot be made from it.
    """
    return load_tokenizer(model, owner="regression")


def collate(rows: Sequence[Mapping[str, Any]], processor: Any) -> dict[str, Tensor]:
    """Pad to the longest of the rows; ``labels`` float32 (B,), everything else (B, tokens)."""
    batch = sequence_classification.collate(rows, processor)
    if "labels" in batch:
        batch["labels"] = batch["labels"].float()
    return batch


def predictions(scores: np.ndarray, label_names: Sequence[str]) -> list[dict[str, Any]]:
    """Return the number for each row of (N, 1) scores."""
    return [{"prediction": float(value)} for (value,) in scores]
