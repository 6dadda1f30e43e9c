"""Next tokens of a text, by a decoder-only model (GPT-2, Llama and their relatives).

A row is a ``text``, all of whose tokens but the first are predicted, or a ``prompt`` and its ``completion``,
of which only the completion is. The model reads a row without its last token, so that scores at position r
are of token r + 1 and no tensor of the vocabulary's size is cut or moved. The log-likelihood of a row is the
sum over its predicted tokens, each given the right ones before it, and curvature is that of this sum; labels
of a true Fisher are drawn position by position given the text in the data, as for ``seq2seq``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from merging import models
from merging.errors import DataError, OptionError
from merging.tasks import _generation, _likelihood, _texts

if TYPE_CHECKING:
    import datasets
    import numpy as np
    from torch import Tensor

COLUMNS: tuple[str, ...] = ()
OPTIONAL_COLUMNS: tuple[str, ...] = ("text", "prompt", "completion")
METRICS: tuple[str, ...] = ("token_accuracy", "perplexity")
MAIN_METRIC: str = "token_accuracy"
_AUTO_CLASS = "AutoModelForCausalLM"

build_model = partial(models.build_language_model, _AUTO_CLASS)
load_model = partial(models.load, _AUTO_CLASS)


def check(dataset: datasets.Dataset, *, labelled: bool = True) -> None:
    """Raise DataError unless there are texts, or prompts with (if ``labelled``) their completions."""
    present = set(OPTIONAL_COLUMNS) & set(dataset.column_names)
    needed = {"text"} if "text" in present else {"prompt", "completion"} if labelled else {"prompt"}
    if not needed <= present or ("text" in present and len(present) > 1):
        raise DataError(
            "causal_lm reads either a column 'text' or columns 'prompt' and 'completion'; the data set has "
            f"{', '.join(dataset.column_names)}. Name the columns in a row of data/sources.py."
        )
    _texts.check_strings(dataset, OPTIONAL_COLUMNS)


def label_names(dataset: datasets.Dataset) -> tuple[str, ...]:
    """Return none: the classes are the vocabulary."""
    return ()


def load_processor(*, model: str | None, architecture: Mapping[str, Any] | None = None) -> Any:
    """Return the tokenizer of ``model``.

    Raises:
        OptionError: there is only an architecture; a tokenizer cannot be made from it.
    """
    return _texts.load_tokenizer(model, owner="causal_lm")


def encode(batch: Mapping[str, list[Any]], processor: Any, *, max_tokens: int | None) -> dict[str, list[Any]]:
    """Tokenize to ``input_ids`` and ``labels``, which are -100 for a prompt, cut to ``max_tokens``.

    Texts are cut at their end. Where prompt and completion are too long together, the prompt loses its
    beginning; at least one token of it is kept, and completions are cut to make room for that. Prompt and
    completion are tokenized apart, so that the tokens of a prompt are those that a model is given to go on
    from; a blank between them belongs to one of the columns. Rows without a completion have no labels.

    Raises:
        OptionError: ``max_tokens`` is None or more than the tokenizer's model has positions for.
        DataError: a prompt without a token, or a text without a second one.
    """
    limit = _texts.check_max_tokens(max_tokens, processor)
    if "text" in batch:
        tokens = _texts.ended(_tokens(processor, batch["text"]), processor, limit)
        _check_predicts(tokens, batch["text"])
        return {
            "input_ids": tokens,
            "labels": tokens,
            "length": [len(row) for row in tokens],
        }
    prompts = [_without_end(row, processor) for row in _tokens(processor, batch["prompt"])]
    _texts.check_not_empty(prompts, batch["prompt"], "prompt")
    if "completion" not in batch:
        prompts = [row[-limit:] for row in prompts]
        return {"input_ids": prompts, "length": [len(row) for row in prompts]}
    if limit < 2:
        raise OptionError(f"max_tokens must be at least 2 for a prompt and a completion, got {limit}.")
    completions = _texts.ended(
        _tokens(processor, batch["completion"], add_special_tokens=False), processor, limit - 1
    )
    _texts.check_not_empty(completions, batch["completion"], "completion")
    prompts = [row[-(limit - len(end)) :] for row, end in zip(prompts, completions, strict=True)]
    pairs = list(zip(prompts, completions, strict=True))
    return {
        "input_ids": [prompt + completion for prompt, completion in pairs],
        "labels": [[_likelihood.IGNORED] * len(prompt) + completion for prompt, completion in pairs],
        "reference": [completion.strip() for completion in batch["completion"]],
        "length": [len(prompt) + len(completion) for prompt, completion in pairs],
    }


def collate(rows: Sequence[Mapping[str, Any]], processor: Any) -> dict[str, Tensor]:
    """Pad to (B, R + 1), and return all but the last token as inputs, all but the first as labels, (B, R).

    Raises:
        DataError: rows without labels, of which nothing is predicted.
    """
    if "labels" not in rows[0]:
        raise DataError(
            "causal_lm: the data have prompts without a column 'completion', so that no token is predicted. "
            "Add it; also for fisher_mc, which draws each token after the right ones."
        )
    read = [row["input_ids"][:-1] for row in rows]
    return {
        "input_ids": _texts.padded(read, _texts.padding_token(processor)),
        "attention_mask": _texts.attention_mask(read),
        "labels": _texts.padded([row["labels"][1:] for row in rows], _likelihood.IGNORED),
    }


def scores(model: Any, inputs: Mapping[str, Tensor]) -> Tensor:
    """Return logits, (B, R, V): at each position those of the next token."""
    logits: Tensor = model(**inputs, use_cache=False).logits
    return logits


def loss(model: Any, batch: Mapping[str, Tensor]) -> Tensor:
    """Return minus the mean log-likelihood of all predicted tokens of a batch."""
    inputs = {name: value for name, value in batch.items() if name != "labels"}
    return _likelihood.mean_loss(scores(model, inputs), batch["labels"])


def records(
    model: Any, batch: Mapping[str, Tensor], processor: Any, label_names: Sequence[str]
) -> list[dict[str, Any]]:
    """Return what a model predicts under teacher forcing; see ``_generation.forced_records``."""
    inputs = {name: value for name, value in batch.items() if name != "labels"}
    return _generation.forced_records(processor, scores(model, inputs), batch["labels"])


def generate(
    model: Any, rows: Sequence[Mapping[str, Any]], processor: Any, *, max_new_tokens: int
) -> list[str]:
    """Return what a model writes after each prompt; see ``_generation.greedy_texts``.

    Raises:
        DataError: rows are texts, all of whose tokens are to be predicted.
    """
    prompts = [_prompt(row) for row in rows]
    inputs = {
        "input_ids": _texts.padded(prompts, _texts.padding_token(processor), left=True),
        "attention_mask": _texts.attention_mask(prompts, left=True),
    }
    inputs = {name: value.to(model.device) for name, value in inputs.items()}
    return _generation.greedy_texts(model, processor, inputs, max_new_tokens=max_new_tokens)


def predictions(scores: np.ndarray, label_names: Sequence[str]) -> list[dict[str, Any]]:
    """Return the likeliest token at each position of (N, R, V) scores."""
    return _generation.predictions(scores)


def _tokens(tokenizer: Any, texts: Sequence[str], **options: bool) -> list[list[int]]:
    tokens: list[list[int]] = tokenizer(list(texts), **options)["input_ids"]
    return tokens


def _without_end(tokens: list[int], tokenizer: Any) -> list[int]:
    """A prompt is gone on with, whatever its tokenizer adds."""
    end = tokenizer.eos_token_id
    return tokens[:-1] if end is not None and tokens[-1:] == [end] else tokens


def _check_predicts(tokens: Sequence[Sequence[int]], texts: Sequence[str]) -> None:
    for row, text in zip(tokens, texts, strict=True):
        if len(row) < 2:
            raise DataError(
                f"column 'text': {text!r} has fewer than two tokens, so there is none to be predicted. "
                "Remove the row, or choose a greater max_tokens."
            )


def _prompt(row: Mapping[str, Any]) -> list[int]:
    tokens: list[int] = row["input_ids"]
    if "labels" not in row:
        return tokens
    length = next(place for place, label in enumerate(row["labels"]) if label != _likelihood.IGNORED)
    if not length:
        raise DataError(
            "the data are texts without prompts, after which nothing can be written. Judge them by "
            "token_accuracy and perplexity, or give columns 'prompt' and 'completion'."
        )
    return tokens[:length]
