"""Which tokens a tokenizer knows, read from its files without loading it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from merging.errors import CheckpointError

TOKENIZER_NAME = "tokenizer.json"
_FILES = (TOKENIZER_NAME, "vocab.txt", "vocab.json")


def read_tokens(folder: Path, *, label: str) -> dict[str, int] | None:
    """Number of every token, added ones included; None where no file says it.

    Args:
        folder: of a model.
        label: names it in error messages.

    Raises:
        CheckpointError: a file is damaged.
    """
    name = next((name for name in _FILES if (folder / name).is_file()), None)
    if name is None:
        return None
    try:
        text = (folder / name).read_text(encoding="utf-8")
        tokens = tokens_of(name, text)
        added = folder / "added_tokens.json"
        if name != TOKENIZER_NAME and added.is_file():
            tokens |= json.loads(added.read_text(encoding="utf-8"))
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise CheckpointError(f"{name} of {label} is damaged: {error}. Copy it again.") from error
    return tokens


def tokens_of(name: str, text: str) -> dict[str, int]:
    """Number of every token that one file names.

    Raises:
        ValueError: the file is no JSON.
    """
    if name == "vocab.txt":
        lines = text.removesuffix("\n").split("\n")  # tokens may hold what Unicode calls the end of a line
        return {token.removesuffix("\r"): number for number, token in enumerate(lines)}
    stored = json.loads(text)
    if name == "vocab.json":
        return dict(stored)
    return vocabulary_of(stored) | {its["content"]: int(its["id"]) for its in stored.get("added_tokens", [])}


def vocabulary_of(stored: Mapping[str, Any]) -> dict[str, int]:
    """Number of every token of the model in a ``tokenizer.json``, without added ones."""
    vocabulary = stored.get("model", {}).get("vocab", {})
    if isinstance(vocabulary, list):  # unigram models: pairs of token and score, numbered by place
        return {pair[0]: number for number, pair in enumerate(vocabulary)}
    return {str(token): int(number) for token, number in vocabulary.items()}
