"""One label for a text or a pair of texts, read off a ``...ForSequenceClassification`` model."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from merging import models
from merging.errors import CheckpointError
from merging.tasks import _classes, _texts
from merging.tasks._classes import label_names, predictions, scores

if TYPE_CHECKING:
    import datasets
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
METRICS: tuple[str, ...] = ("accuracy", "f1")
MAIN_METRIC: str = "accuracy"
_AUTO_CLASS = "AutoModelForSequenceClassification"

build_model = partial(models.build_classifier, _AUTO_CLASS)


def load_model(
    folder: str | os.PathLike[str], *, tensors: Mapping[str, Tensor] | None = None
) -> transformers.PreTrainedModel:
    """As :func:`merging.models.load`.

    Raises:
        CheckpointError: also for a model with one score, which has nothing to choose from.
    """
    model = models.load(_AUTO_CLASS, folder, tensors=tensors)
    if model.config.num_labels == 1:
        raise CheckpointError(
            f"{folder} has one score for a text, so there are no classes to choose from. Is its task type "
            "regression?"
        )
    return model


def check(dataset: datasets.Dataset, *, labelled: bool = True) -> None:
    """Raise DataError unless the texts are strings and, if ``labelled``, every label is in range."""
    _classes.check(dataset, columns=COLUMNS, labelled=labelled)
    _texts.check_strings(dataset, (*COLUMNS, *OPTIONAL_COLUMNS))


def load_processor(*, model: str | None, architecture: Mapping[str, Any] | None = None) -> Any:
    """Return the tokenizer of ``model``.

    Raises:
        OptionError: there is only an architecture; a tokenizer cannot be made from it.
    """
    return _texts.load_tokenizer(model, owner="sequence_classification")


def encode(batch: Mapping[str, list[Any]], processor: Any, *, max_tokens: int | None) -> dict[str, list[Any]]:
    """Tokenize to ``input_ids`` and what else the tokenizer makes, cut to ``max_tokens``, without padding.

    Raises:
        OptionError: ``max_tokens`` is None or more than the tokenizer's model has positions for.
    """
    limit = _texts.check_max_tokens(max_tokens, processor)
    texts = [batch[column] for column in (*COLUMNS, *OPTIONAL_COLUMNS) if column in batch]
    columns: dict[str, list[Any]] = dict(processor(*texts, truncation=True, max_length=limit))
    _texts.forget_lengths(processor)
    columns["length"] = [len(tokens) for tokens in columns["input_ids"]]
    if _classes.LABEL in batch:
        columns["labels"] = batch[_classes.LABEL]
    return columns


def collate(rows: Sequence[Mapping[str, Any]], processor: Any) -> dict[str, Tensor]:
    """Pad to the longest of the rows; ``labels`` (B,), everything else (B, tokens)."""
    from transformers import DataCollatorWithPadding

    inputs = [{key: value for key, value in row.items() if key != "length"} for row in rows]
    return dict(DataCollatorWithPadding(processor)(inputs))
