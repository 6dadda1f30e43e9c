"""One label for each word of a sentence, read off a ``...ForTokenClassification`` model.

A word is predicted at its first token; its other tokens, special tokens and padding predict nothing. The
log-likelihood of a sentence is the sum over its words, and curvature is that of this sum; labels of a true
Fisher are drawn word by word.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from merging import models
from merging.data.columns import class_names
from merging.errors import DataError, OptionError
from merging.tasks import _texts
from merging.tasks._classes import LABEL, check_columns, finite, predictions, scores

if TYPE_CHECKING:
    import datasets
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
    "records",
    "scores",
]

COLUMNS: tuple[str, ...] = ("words",)
OPTIONAL_COLUMNS: tuple[str, ...] = ()
METRICS: tuple[str, ...] = ("entity_f1", "tag_accuracy")
MAIN_METRIC: str = "entity_f1"
_AUTO_CLASS = "AutoModelForTokenClassification"
_IGNORED = -100
_UNKNOWN = 0
"""Label of a word in data without labels; any would do."""

build_model = partial(models.build_classifier, _AUTO_CLASS)
load_model = partial(models.load, _AUTO_CLASS)


def check(dataset: datasets.Dataset, *, labelled: bool = True) -> None:
    """Raise DataError unless there are lists of words and, if ``labelled``, a label in range for each."""
    check_columns(dataset, (*COLUMNS, LABEL) if labelled else COLUMNS)
    feature = dataset.features["words"]
    if getattr(getattr(feature, "feature", None), "dtype", None) not in ("string", "large_string"):
        raise DataError(
            f"column 'words' is {feature!r}, not lists of strings. Cut sentences into words first."
        )
    if labelled:
        names = label_names(dataset)
        for row, (words, labels) in enumerate(zip(dataset["words"], dataset[LABEL], strict=True)):
            if len(words) != len(labels):
                raise DataError(
                    f"row {row} has {len(words)} words and {len(labels)} labels. Give each word one label."
                )
            for word, label in enumerate(labels):
                if type(label) is not int or not 0 <= label < len(names):
                    raise DataError(
                        f"row {row}: label {label!r} of word {word} is outside 0..{len(names) - 1}. "
                        "Leave the row out, or mend it."
                    )


def label_names(dataset: datasets.Dataset) -> tuple[str, ...]:
    """Names of the labels, e.g. O, B-PER, I-PER, from the lists of ClassLabel."""
    feature = dataset.features.get(LABEL)
    names = class_names(feature)
    if names is None or not hasattr(feature, "feature"):
        raise DataError(
            f"column {LABEL!r} is {feature!r}, not lists of ClassLabel with names. "
            "Let `merging.data.download` prepare the data set; it names the labels."
        )
    return tuple(names)


def load_processor(*, model: str | None, architecture: Mapping[str, Any] | None = None) -> Any:
    """Return the tokenizer of ``model``.

    Raises:
        OptionError: there is only an architecture, or the tokenizer does not tell which token is of which
            word.
    """
    tokenizer = _texts.load_tokenizer(model, owner="token_classification")
    if not tokenizer.is_fast:
        raise OptionError(
            f"token_classification: {type(tokenizer).__name__} of {model} does not tell which token is of "
            "which word. Use a model with a tokenizer.json."
        )
    return tokenizer


def encode(batch: Mapping[str, list[Any]], processor: Any, *, max_tokens: int | None) -> dict[str, list[Any]]:
    """Tokenize words to ``input_ids`` and what else the tokenizer makes, cut to ``max_tokens``.

    ``labels`` has the label of a word at its first token, and -100 elsewhere; words that were cut off are
    neither predicted nor counted. A word that has no token (a control character) becomes the unknown token.

    Raises:
        OptionError: ``max_tokens`` is None or more than the tokenizer's model has positions for.
    """
    limit = _texts.check_max_tokens(max_tokens, processor)
    blank = _blank(processor)
    sentences = [_visible(words, processor, blank) for words in batch["words"]]
    encoded = processor(sentences, is_split_into_words=True, truncation=True, max_length=limit)
    _texts.forget_lengths(processor)
    columns: dict[str, list[Any]] = dict(encoded)
    columns["length"] = [len(tokens) for tokens in columns["input_ids"]]
    columns["labels"] = []
    for row, words in enumerate(batch["words"]):
        of_words = (batch[LABEL][row] if LABEL in batch else [_UNKNOWN] * len(words)) or [_IGNORED]
        places = encoded.word_ids(row)
        columns["labels"].append(
            [
                of_words[word] if word is not None and word != before else _IGNORED
                for before, word in zip([None, *places], places, strict=False)
            ]
        )
    return columns


def collate(rows: Sequence[Mapping[str, Any]], processor: Any) -> dict[str, Tensor]:
    """Pad to the longest of the rows, everything (B, tokens); ``labels`` with -100."""
    import torch
    from transformers import DataCollatorWithPadding

    inputs = [{key: value for key, value in row.items() if key not in ("length", "labels")} for row in rows]
    batch = dict(DataCollatorWithPadding(processor)(inputs))
    labels = torch.full(batch["input_ids"].shape, _IGNORED)
    for row, padded, shown in zip(rows, labels, batch["attention_mask"].bool(), strict=True):
        padded[shown] = torch.tensor(row["labels"])  # whichever side the tokenizer pads
    batch["labels"] = labels
    return batch


def records(
    model: Any, batch: Mapping[str, Tensor], processor: Any, label_names: Sequence[str]
) -> list[dict[str, Any]]:
    """Return the label of each word of each sentence, by name, and how probable it is."""
    labels = batch["labels"].cpu()
    inputs = {name: value for name, value in batch.items() if name != "labels"}
    values = finite(scores(model, inputs))
    made = []
    for row, own in zip(values, labels, strict=True):
        words = predictions(row[(own != _IGNORED).numpy()], label_names)
        made.append(
            {
                "prediction": [word["prediction_name"] for word in words],
                "confidence": [max(word["probabilities"]) for word in words],
                "reference": [label_names[label] for label in own[own != _IGNORED].tolist()],
            }
        )
    return made


def _visible(words: Sequence[str], tokenizer: Any, blank: str) -> list[str]:
    """The words as a tokenizer of whole texts would meet them; those without a token are unknown."""
    if not words:
        return [tokenizer.unk_token]
    spaced = [words[0], *(blank + word for word in words[1:])]
    ids = tokenizer(spaced, add_special_tokens=False)["input_ids"]
    return [word if tokens else tokenizer.unk_token for word, tokens in zip(spaced, ids, strict=True)]


def _blank(tokenizer: Any) -> str:
    """What has to stand before a word for its tokens to be those within a text: a blank for GPT-2's and
    RoBERTa's bytes, nothing for others."""
    tokens = tokenizer("a b", add_special_tokens=False)["input_ids"]
    apart, spaced = (
        tokenizer(words, is_split_into_words=True, add_special_tokens=False)["input_ids"]
        for words in (["a", "b"], ["a", " b"])
    )
    return " " if tokens != apart and tokens == spaced else ""
