"""What task types of texts share: tokenizers, and texts as columns of strings."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from merging import models
from merging.errors import DataError, OptionError

if TYPE_CHECKING:
    import datasets

_STRINGS = ("string", "large_string")


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
        raise OptionError(f"max_tokens must be in 1..{limit} for this tokenizer, got {max_tokens}.")
    return max_tokens
