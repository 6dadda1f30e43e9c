"""A text from a text, written by an encoder-decoder model (T5, BART and their relatives).

Scores are of the tokens of the target, each given the text and the right tokens before it (teacher forcing):
log p(y | x) = sum_r log p(y_r | y_<r, x). Curvature is that of this sum. Labels of a true Fisher are drawn
position by position from the model, given the prefix in the data: then the scores of positions are
independent with mean zero, and the square of their sum is in expectation the sum of the positions' Fishers. A
whole sequence written by the model itself would take a forward pass for each of its tokens, and say what the
model does after its own mistakes, where the merged model is not meant to be.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from merging import models
from merging.errors import CheckpointError, DataError
from merging.tasks import _generation, _likelihood, _texts

if TYPE_CHECKING:
    import os

    import datasets
    import numpy as np
    from torch import Tensor

COLUMNS: tuple[str, ...] = ("text",)
OPTIONAL_COLUMNS: tuple[str, ...] = ("target",)
METRICS: tuple[str, ...] = ("exact_match", "token_f1", "rouge_l")
MAIN_METRIC: str = "exact_match"
_AUTO_CLASS = "AutoModelForSeq2SeqLM"

build_model = partial(models.build_language_model, _AUTO_CLASS)
load_model = partial(models.load, _AUTO_CLASS)


@dataclass(frozen=True)
class Seq2SeqProcessor:
    """A tokenizer, and what its model's decoder starts with, which tokenizers do not know."""

    tokenizer: Any
    start_token: int

    def save_pretrained(self, folder: str | os.PathLike[str]) -> None:
        """Write the tokenizer's files; the start token stands in the model's configuration."""
        self.tokenizer.save_pretrained(folder)


def check(dataset: datasets.Dataset, *, labelled: bool = True) -> None:
    """Raise DataError unless there are texts and, if ``labelled``, targets, all of them strings."""
    for column in (*COLUMNS, *OPTIONAL_COLUMNS) if labelled else COLUMNS:
        if column not in dataset.column_names:
            raise DataError(
                f"the data set has no column {column!r}; it has {', '.join(dataset.column_names)}. "
                "Name the columns in a row of data/sources.py."
            )
    _texts.check_strings(dataset, (*COLUMNS, *OPTIONAL_COLUMNS))


def label_names(dataset: datasets.Dataset) -> tuple[str, ...]:
    """Return none: the classes are the vocabulary."""
    return ()


def load_processor(*, model: str | None, architecture: Mapping[str, Any] | None = None) -> Seq2SeqProcessor:
    """Return the tokenizer of ``model`` with its decoder's start token.

    Raises:
        OptionError: there is only an architecture; a tokenizer cannot be made from it.
        CheckpointError: the model does not say what its decoder starts with.
    """
    tokenizer = _texts.load_tokenizer(model, owner="seq2seq")
    folder = models.locate(str(model))
    start = _generation.start_token(models.read_config(folder), folder)
    if start is None:
        raise CheckpointError(
            f"{folder}: config.json has no decoder_start_token_id, so the decoder cannot start. "
            "Add it (T5: the id of <pad>; BART: the id of </s>)."
        )
    return Seq2SeqProcessor(tokenizer, start)


def encode(
    batch: Mapping[str, list[Any]], processor: Seq2SeqProcessor, *, max_tokens: int | None
) -> dict[str, list[Any]]:
    """Tokenize texts to ``input_ids`` and targets to ``labels``, each cut to ``max_tokens``.

    Raises:
        OptionError: ``max_tokens`` is None or more than the tokenizer's model has positions for.
        DataError: a text without a token.
    """
    tokenizer = processor.tokenizer
    limit = _texts.check_max_tokens(max_tokens, tokenizer)
    inputs = tokenizer(batch["text"], truncation=True, max_length=limit)["input_ids"]
    _texts.check_not_empty(inputs, batch["text"], "text")
    columns: dict[str, list[Any]] = {"input_ids": inputs, "length": [len(tokens) for tokens in inputs]}
    if "target" in batch:
        targets = tokenizer(text_target=batch["target"], truncation=True, max_length=limit)["input_ids"]
        columns["labels"] = _texts.ended(targets, tokenizer, limit)
        _texts.check_not_empty(columns["labels"], batch["target"], "target")
        columns["reference"] = batch["target"]
        columns["length"] = [len(text) + len(target) for text, target in zip(inputs, targets, strict=True)]
    _texts.forget_lengths(tokenizer)
    return columns


def collate(rows: Sequence[Mapping[str, Any]], processor: Seq2SeqProcessor) -> dict[str, Tensor]:
    """Pad texts to (B, S) and targets to ``labels`` (B, R), which the decoder gets shifted by one.

    ``decoder_attention_mask`` is 1 where something is predicted: the model needs it no more than any decoder
    needs to hide what comes later, but statistics of layers leave out what it hides.
    """
    tokens = [row["input_ids"] for row in rows]
    padding = _texts.padding_token(processor.tokenizer)
    batch = {
        "input_ids": _texts.padded(tokens, padding),
        "attention_mask": _texts.attention_mask(tokens),
    }
    if "labels" in rows[0]:
        targets = [row["labels"] for row in rows]
        shifted = [[processor.start_token, *target[:-1]] for target in targets]
        batch["decoder_input_ids"] = _texts.padded(shifted, padding)
        batch["decoder_attention_mask"] = _texts.attention_mask(targets)
        batch["labels"] = _texts.padded(targets, _likelihood.IGNORED)
    return batch


def scores(model: Any, inputs: Mapping[str, Tensor]) -> Tensor:
    """Return logits, (B, R, V), of the tokens of the target.

    Raises:
        DataError: there are no targets.
    """
    if "decoder_input_ids" not in inputs:
        raise DataError(
            "seq2seq: scores are of the tokens of a target after those before it, and the data have no "
            "column 'target'. Add it; also for fisher_mc, which draws each token after the right ones."
        )
    logits: Tensor = model(**inputs, use_cache=False).logits
    return logits


def loss(model: Any, batch: Mapping[str, Tensor]) -> Tensor:
    """Return minus the mean log-likelihood of the tokens of all targets of a batch."""
    inputs = {name: value for name, value in batch.items() if name != "labels"}
    return _likelihood.mean_loss(scores(model, inputs), batch["labels"])


def records(
    model: Any, batch: Mapping[str, Tensor], processor: Seq2SeqProcessor, label_names: Sequence[str]
) -> list[dict[str, Any]]:
    """Return what a model predicts under teacher forcing; see ``_generation.forced_records``."""
    inputs = {name: value for name, value in batch.items() if name != "labels"}
    return _generation.forced_records(processor.tokenizer, scores(model, inputs), batch["labels"])


def generate(
    model: Any,
    rows: Sequence[Mapping[str, Any]],
    processor: Seq2SeqProcessor,
    *,
    max_new_tokens: int,
) -> list[str]:
    """Return the text that a model writes for each row; see ``_generation.greedy_texts``."""
    batch = collate([{"input_ids": row["input_ids"]} for row in rows], processor)
    inputs = {name: value.to(model.device) for name, value in batch.items()}
    return _generation.greedy_texts(model, processor.tokenizer, inputs, max_new_tokens=max_new_tokens)


def predictions(scores: np.ndarray, label_names: Sequence[str]) -> list[dict[str, Any]]:
    """Return the likeliest token at each position of (N, R, V) scores."""
    return _generation.predictions(scores)
