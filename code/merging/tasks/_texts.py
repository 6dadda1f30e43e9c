"""What task types of texts share: tokenizers, and texts as columns of strings."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from merging import models
from merging.errors import DataError, OptionError

if TYPE_CHECKING:
    import datasets
    from torch import Tensor

_STRINGS = ("string", "large_string")
_UNLIMITED = 10**9
"""Tokenizers that know no limit of their model give a larger number for it."""


def check_strings(dataset: datasets.Dataset, columns: Sequence[str]) -> None:
    """Raise DataError for a column, of those that are there, that holds something else than strings."""
    for column in columns:
        if column in dataset.column_names and dataset.features[column].dtype not in _STRINGS:
            raise DataError(f"column {column!r} must hold strings, not {dataset.features[column].dtype}.")


def load_tokenizer(model: str | None, *, owner: str) -> Any:
    """Return the tokenizer of ``model``, without the padding and truncation of whoever saved it.

    Raises:
        OptionError: there is only an architecture; a tokenizer cannot be made from it.
    """
    if model is None:
        raise OptionError(
            f"{owner}: an architecture alone brings no tokenizer. "
            "Give model=<folder or Hub id> instead; to start from random weights, save such a model with its "
            "tokenizer into a folder first."
        )
    tokenizer = models.load_processor("AutoTokenizer", model)
    forget_lengths(tokenizer)
    return tokenizer


def forget_lengths(tokenizer: Any) -> None:
    """Undo what a call leaves in a fast tokenizer, which would be saved and change its fingerprint."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is not None:
        backend.no_truncation()
        backend.no_padding()


def check_max_tokens(max_tokens: int | None, tokenizer: Any) -> int:
    """Return ``max_tokens``.

    Raises:
        OptionError: it is None, or more than the tokenizer's model has positions for.
    """
    limit = tokenizer.model_max_length
    if max_tokens is None or not 1 <= max_tokens <= limit:
        allowed = f"in 1..{limit} for this tokenizer" if limit < _UNLIMITED else "1 or more"
        raise OptionError(f"max_tokens must be {allowed}, got {max_tokens}. Texts are cut to it.")
    return max_tokens


def check_not_empty(tokens: Sequence[Sequence[int]], texts: Sequence[str], column: str) -> None:
    """Raise DataError for a text that has no token, which no model can read."""
    for ids, text in zip(tokens, texts, strict=True):
        if not ids:
            raise DataError(
                f"column {column!r}: {text!r} has no token. Remove the row, or use a tokenizer that marks "
                "the beginning or the end of a text."
            )


def ended(tokens: Sequence[Sequence[int]], tokenizer: Any, max_tokens: int) -> list[list[int]]:
    """Cut sequences to ``max_tokens``, and let those that were not cut end with the end token.

    A model that never sees it in training never stops when it generates. Without such a token nothing is
    added.
    """
    end = tokenizer.eos_token_id
    if end is None:
        return [list(ids[:max_tokens]) for ids in tokens]
    return [[*ids[: -1 if ids and ids[-1] == end else None], end][:max_tokens] for ids in tokens]


def padding_token(tokenizer: Any) -> int:
    """Return what stands where nothing is read: the padding token, else the end token, else 0."""
    for token in (tokenizer.pad_token_id, tokenizer.eos_token_id):
        if token is not None:
            return int(token)
    return 0


def padded(rows: Sequence[Sequence[int]], value: int, *, left: bool = False) -> Tensor:
    """Return int64 (B, R), R = the longest row, filled with ``value`` on the right, or on the left."""
    import torch

    result = torch.full((len(rows), max(map(len, rows))), value)
    for place, row in zip(result, rows, strict=True):
        place[len(place) - len(row) if left else 0 :][: len(row)] = torch.tensor(row, dtype=torch.int64)
    return result


def attention_mask(rows: Sequence[Sequence[int]], *, left: bool = False) -> Tensor:
    """Return int64 (B, R) beside :func:`padded`: 1 for a token, 0 for padding."""
    return padded([[1] * len(row) for row in rows], 0, left=left)
