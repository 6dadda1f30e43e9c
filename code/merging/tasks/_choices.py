"""Answers that are ranked by their likelihood under a model of tokens.

    score_c = log p(choice_c | text) = sum_r log p(y_r | y_<r, text)
    p(c) = exp score_c / sum over choices of exp score

The label is the number of the right choice among those of its row, and rows may have different numbers of
them. Training minimises -log p(c) of the right one, and curvature is of this distribution over choices: a
label of the true Fisher is a choice drawn from it, as in MaTS (Tam et al., TMLR 2024, arXiv:2312.04339).
Ranking classes by likelihood is how T0 is evaluated (Sanh et al., ICLR 2022, arXiv:2110.08207).

An encoder-decoder reads the text and writes the choice; a decoder goes on from the text, with a blank
between them unless there is one. Every choice is a row of its own for the model, so K choices cost K rows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from merging import models
from merging.errors import DataError, OptionError
from merging.tasks import _texts, seq2seq
from merging.tasks._classes import LABEL, check_columns, finite
from merging.tasks._likelihood import IGNORED, log_likelihoods

if TYPE_CHECKING:
    import os

    import datasets
    import numpy as np
    import transformers
    from torch import Tensor

COLUMNS: tuple[str, ...] = ("text", "choices")
OPTIONAL_COLUMNS: tuple[str, ...] = ()
METRICS: tuple[str, ...] = ("accuracy",)
MAIN_METRIC: str = "accuracy"

_SEQ2SEQ, _CAUSAL = "AutoModelForSeq2SeqLM", "AutoModelForCausalLM"


@dataclass(frozen=True)
class ChoiceProcessor:
    """A tokenizer, and what its model's decoder starts with; None for a model without an encoder."""

    tokenizer: Any
    start_token: int | None

    def save_pretrained(self, folder: str | os.PathLike[str]) -> None:
        """Write the tokenizer's files; the rest stands in the model's configuration."""
        self.tokenizer.save_pretrained(folder)


def check(dataset: datasets.Dataset, *, labelled: bool = True) -> None:
    """Raise DataError unless there are texts, choices and, if ``labelled``, a right choice for each row."""
    check_columns(dataset, (*COLUMNS, LABEL) if labelled else COLUMNS)
    _texts.check_strings(dataset, ("text",))
    feature = dataset.features["choices"]
    if getattr(getattr(feature, "feature", None), "dtype", None) not in ("string", "large_string"):
        raise DataError(f"column 'choices' is {feature!r}, not lists of strings.")
    labels = dataset[LABEL][:] if labelled else [0] * len(dataset)
    for row, (choices, label) in enumerate(zip(dataset["choices"], labels, strict=True)):
        if len(choices) < 2:
            raise DataError(f"row {row} has {len(choices)} choices; there is nothing to choose. Remove it.")
        if type(label) is not int or not 0 <= label < len(choices):
            raise DataError(
                f"row {row} has the label {label!r} and {len(choices)} choices. The label is the number of "
                "the right one, counted from 0; mend it, or leave the row out."
            )


def label_names(dataset: datasets.Dataset) -> tuple[str, ...]:
    """Return none: each row has choices of its own."""
    return ()


def build_model(
    *,
    model: str | None,
    architecture: Mapping[str, Any] | None,
    label_names: Sequence[str],
    dropout: float | None,
    seed: int,
) -> transformers.PreTrainedModel:
    """Return a model of tokens to be trained; see :func:`merging.models.build_language_model`."""
    config = (
        models.config_for(architecture or {}) if model is None else models.read_config(models.locate(model))
    )
    return models.build_language_model(
        _SEQ2SEQ if config.is_encoder_decoder else _CAUSAL,
        model=model,
        architecture=architecture,
        label_names=label_names,
        dropout=dropout,
        seed=seed,
    )


def load_model(folder: str, *, tensors: Mapping[str, Tensor] | None = None) -> transformers.PreTrainedModel:
    """Return a finished model of tokens, with an encoder or without; see :func:`merging.models.load`."""
    config = models.read_config(models.locate(folder))
    return models.load(_SEQ2SEQ if config.is_encoder_decoder else _CAUSAL, folder, tensors=tensors)


def load_processor(*, model: str | None, architecture: Mapping[str, Any] | None = None) -> ChoiceProcessor:
    """Return the tokenizer of ``model``, with its decoder's start token if there is an encoder.

    Raises:
        OptionError: there is only an architecture; a tokenizer cannot be made from it.
        CheckpointError: the model does not say what its decoder starts with.
    """
    tokenizer = _texts.load_tokenizer(model, owner="multiple_choice")
    if not models.read_config(models.locate(str(model))).is_encoder_decoder:
        return ChoiceProcessor(tokenizer, None)
    return ChoiceProcessor(tokenizer, seq2seq.load_processor(model=model).start_token)


def encode(
    batch: Mapping[str, list[Any]], processor: ChoiceProcessor, *, max_tokens: int | None
) -> dict[str, list[Any]]:
    """Tokenize to ``context`` and ``choices``, which are never cut, ``length`` and ``labels``.

    With an encoder the end of a text that is longer than ``max_tokens`` is cut off; without one its
    beginning, so that text and longest choice together have at most ``max_tokens``.

    Raises:
        OptionError: ``max_tokens`` is None, more than the tokenizer's model has positions for, or less than a
            choice and a token of its text take.
        DataError: a text or a choice without a token.
    """
    tokenizer = processor.tokenizer
    limit = _texts.check_max_tokens(max_tokens, tokenizer)
    has_encoder = processor.start_token is not None
    choices = [_tokens(row, text, tokenizer, has_encoder) for row, text in _pairs(batch)]
    longest = [max(map(len, row)) for row in choices]
    for text, row, length in zip(batch["text"], batch["choices"], longest, strict=True):
        if length > limit - (not has_encoder):
            raise OptionError(
                f"max_tokens={limit} is too small: a choice among {row} of {text[:60]!r} takes {length} "
                f"tokens{'' if has_encoder else ' beside its text'}, and choices are never cut."
            )
    if has_encoder:
        contexts = tokenizer(batch["text"], truncation=True, max_length=limit)["input_ids"]
        _texts.forget_lengths(tokenizer)
    else:
        whole = [_without_end(ids, tokenizer) for ids in tokenizer(batch["text"])["input_ids"]]
        contexts = [ids[-(limit - length) :] for ids, length in zip(whole, longest, strict=True)]
    _texts.check_not_empty(contexts, batch["text"], "text")
    lengths = zip(contexts, choices, longest, strict=True)
    columns: dict[str, list[Any]] = {
        "context": contexts,
        "choices": choices,
        "length": [len(row) * (len(context) + most) for context, row, most in lengths],
    }
    if LABEL in batch:
        columns["labels"] = batch[LABEL]
    return columns


def collate(rows: Sequence[Mapping[str, Any]], processor: ChoiceProcessor) -> dict[str, Tensor]:
    """Pad to tensors whose second dimension is the choice, and whose third is the token.

    Without an encoder: ``input_ids`` (B, K, R) of text and choice, ``attention_mask`` and ``targets``, -100
    but for the tokens of the choice. With one: ``input_ids`` and ``attention_mask`` (B, K, S) of the text,
    ``decoder_input_ids``, ``decoder_attention_mask`` and ``targets`` (B, K, R). A row with fewer than K
    choices has copies of its first, all of whose targets are -100 and whose masks are 0. ``labels`` is (B,).
    """
    import torch

    tokenizer = processor.tokenizer
    width = max(len(row["choices"]) for row in rows)
    contexts: list[list[int]] = []
    choices: list[list[int]] = []
    is_choice: list[bool] = []
    for row in rows:
        surplus = width - len(row["choices"])
        contexts += [row["context"]] * width
        choices += [*row["choices"], *([row["choices"][0]] * surplus)]
        is_choice += [True] * len(row["choices"]) + [False] * surplus
    real = torch.tensor(is_choice).unsqueeze(-1)
    padding = _texts.padding_token(tokenizer)
    if processor.start_token is None:
        whole = [context + choice for context, choice in zip(contexts, choices, strict=True)]
        targets = [
            [IGNORED] * len(context) + choice for context, choice in zip(contexts, choices, strict=True)
        ]
        flat = {
            "input_ids": _texts.padded(whole, padding),
            "attention_mask": _texts.attention_mask(whole) * real,
            "targets": _texts.padded(targets, IGNORED).where(real, IGNORED),
        }
    else:
        shifted = [[processor.start_token, *choice[:-1]] for choice in choices]
        flat = {
            "input_ids": _texts.padded(contexts, padding),
            "attention_mask": _texts.attention_mask(contexts) * real,
            "decoder_input_ids": _texts.padded(shifted, padding),
            "decoder_attention_mask": _texts.attention_mask(choices) * real,
            "targets": _texts.padded(choices, IGNORED).where(real, IGNORED),
        }
    batch = {name: value.view(len(rows), width, -1) for name, value in flat.items()}
    if "labels" in rows[0]:
        batch["labels"] = torch.tensor([row["labels"] for row in rows])
    return batch


def scores(model: Any, inputs: Mapping[str, Tensor], *, length_normalised: bool) -> Tensor:
    """Return log-likelihoods of choices, (B, K); what is no choice has the least finite one, and no gradient.

    Args:
        model: of tokens, with an encoder or without.
        inputs: see :func:`collate`.
        length_normalised: means over the tokens of a choice instead of sums.
    """
    import torch

    size, width = inputs["targets"].shape[:2]
    flat = {name: value.flatten(0, 1) for name, value in inputs.items() if name != "labels"}
    targets = flat.pop("targets")
    for name in ("attention_mask", "decoder_attention_mask"):
        if name in flat:  # what attends to nothing has no numbers; its scores are not used
            nothing = flat[name].sum(1, keepdim=True) == 0
            flat[name] = flat[name].where(~nothing, 1)
    logits = model(**flat, use_cache=False).logits
    if "decoder_input_ids" not in flat:
        logits, targets = logits[:, :-1], targets[:, 1:]
    likelihoods = log_likelihoods(logits, targets, length_normalised=length_normalised).view(size, width)
    is_choice = (targets != IGNORED).any(-1).view(size, width)
    return likelihoods.where(is_choice, torch.finfo(likelihoods.dtype).min / 4)


def loss(model: Any, batch: Mapping[str, Tensor], *, length_normalised: bool) -> Tensor:
    """Return the mean over examples of -log p(right choice)."""
    from torch.nn import functional

    inputs = {name: value for name, value in batch.items() if name != "labels"}
    likelihoods = scores(model, inputs, length_normalised=length_normalised)
    return functional.cross_entropy(likelihoods, batch["labels"])


def predictions(scores: np.ndarray, label_names: Sequence[str]) -> list[dict[str, Any]]:
    """Return the likeliest choice of each row of (N, K) log-likelihoods; of equal ones the first."""
    import numpy as np

    shifted = np.exp(scores.astype(np.float64) - scores.max(axis=1, keepdims=True))
    probabilities = shifted / shifted.sum(axis=1, keepdims=True)
    return [
        {"prediction": int(best), "probabilities": [round(float(p), 6) for p in row]}
        for best, row in zip(scores.argmax(axis=1), probabilities, strict=True)
    ]


def records(
    model: Any,
    batch: Mapping[str, Tensor],
    processor: ChoiceProcessor,
    label_names: Sequence[str],
    *,
    length_normalised: bool,
) -> list[dict[str, Any]]:
    """Return the likeliest choice of each row, and the probabilities and log-likelihoods of all of them."""
    inputs = {name: value for name, value in batch.items() if name != "labels"}
    values = finite(scores(model, inputs, length_normalised=length_normalised))
    counts = (batch["targets"] != IGNORED).any(-1).sum(-1).tolist()
    made = []
    for row, count in zip(values, counts, strict=True):
        (record,) = predictions(row[None, :count], label_names)
        made.append({**record, "scores": [round(float(score), 6) for score in row[:count]]})
    if "labels" in batch:
        for record, label in zip(made, batch["labels"].tolist(), strict=True):
            record["reference"] = label
    return made


def _pairs(batch: Mapping[str, list[Any]]) -> list[tuple[list[str], str]]:
    return list(zip(batch["choices"], batch["text"], strict=True))


def _tokens(choices: Sequence[str], text: str, tokenizer: Any, has_encoder: bool) -> list[list[int]]:
    """Tokens of each choice: as a decoder writes them, or as they go on from a text."""
    if has_encoder:
        ids = tokenizer(text_target=list(choices))["input_ids"]
    else:
        blank = "" if text[-1:].isspace() else " "
        joined = [choice if choice[:1].isspace() else blank + choice for choice in choices]
        ids = tokenizer(joined, add_special_tokens=False)["input_ids"]
    _texts.check_not_empty(ids, choices, "choices")
    return [list(row) for row in ids]


def _without_end(tokens: list[int], tokenizer: Any) -> list[int]:
    """The tokens of a text that something comes after."""
    end = tokenizer.eos_token_id
    return tokens[:-1] if len(tokens) > 1 and tokens[-1] == end else tokens
