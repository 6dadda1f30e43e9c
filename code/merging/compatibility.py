"""Whether model folders belong together: labels, vocabularies, quantisation; read from their small files."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from merging.errors import CheckpointError

_GENERIC_LABEL = re.compile(r"LABEL_\d+")


def read_config(folder: Path, *, label: str) -> dict[str, Any]:
    """Read ``config.json``.

    Raises:
        CheckpointError: it is missing or damaged, or the model is quantised.
    """
    path = folder / "config.json"
    try:
        config = json.loads(path.read_text())
    except FileNotFoundError as error:
        raise CheckpointError(
            f"{label}: {folder} is no model folder: it has no config.json. Pass the folder that "
            "save_pretrained wrote."
        ) from error
    except ValueError as error:
        raise CheckpointError(f"{label}: {path} is damaged: {error}. Copy it again.") from error
    if not isinstance(config, dict):
        raise CheckpointError(f"{label}: {path} is damaged: it holds no object.")
    if "quantization_config" in config:
        raise CheckpointError(
            f"{label}: {folder} is quantised (config.json has a quantization_config) and cannot be merged. "
            "Use the model in bfloat16 or float32."
        )
    return config


def vocabulary_size(configs: Mapping[str, Mapping[str, Any]]) -> int | None:
    """Rows of the embeddings of the first model, where its config says so."""
    config = next(iter(configs.values()))
    size = config.get("vocab_size", config.get("text_config", {}).get("vocab_size"))
    return int(size) if size is not None else None


def check_labels(configs: Mapping[str, Mapping[str, Any]], *, heads: list[str]) -> None:
    """Refuse models whose heads number their labels differently.

    Names that transformers makes up (``LABEL_0``) say nothing and fit any others.

    Args:
        configs: ``config.json`` by label of the folder, the base first.
        heads: the classifier tensors that would be merged; without any, labels do not matter.

    Raises:
        CheckpointError: numbers or names of labels differ.
    """
    if not heads:
        return
    labels = {owner: _labels(config) for owner, config in configs.items()}
    named = {owner: names for owner, names in labels.items() if not all(map(_GENERIC_LABEL.fullmatch, names))}
    first = next(iter(named), next(iter(labels)))
    pattern = heads[0].rsplit(".", 1)[0] + ".*"
    for owner, names in labels.items():
        if len(names) != len(labels[first]) or (owner in named and names != named[first]):
            raise CheckpointError(
                f"label sets differ: {first} has {labels[first]}, {owner} has {names}. Merging would mix the "
                "rows of the head. Train with the same label order, or pass the policy "
                f'{{"exclude": ["{pattern}"]}} to keep the head of {next(iter(labels))}.'
            )


def check_vocabularies(folders: Mapping[str, Path]) -> None:
    """Refuse models whose tokenizers give one token different numbers.

    Raises:
        CheckpointError: two folders have tokenizer files with different vocabularies.
    """
    first: dict[str, tuple[str, Any]] = {}
    for owner, folder in folders.items():
        for name in ("tokenizer.json", "vocab.txt", "vocab.json"):
            path = folder / name
            if not path.is_file():
                continue
            content = path.read_bytes()
            if name not in first:
                first[name] = (owner, content)
                continue
            try:
                differs = content != first[name][1] and _shared_differs(name, content, first[name][1])
            except ValueError as error:
                raise CheckpointError(
                    f"{name} of {owner} or of {first[name][0]} is damaged: {error}. Copy it again."
                ) from error
            if differs:
                raise CheckpointError(
                    f"vocabularies differ: {name} of {owner} numbers tokens differently from "
                    f"{first[name][0]}'s. The rows of their embeddings mean different tokens; merge models "
                    "that share a tokenizer."
                )


def _shared_differs(name: str, content: bytes, other: bytes) -> bool:
    """Whether a token that both know has two numbers."""
    tokens, others = _vocabulary(name, content), _vocabulary(name, other)
    return any(others.get(token, number) != number for token, number in tokens.items())


def _vocabulary(name: str, content: bytes) -> dict[str, int]:
    """Token to number, as far as the file says."""
    text = content.decode()
    if name == "vocab.txt":
        return {token: number for number, token in enumerate(text.splitlines())}
    stored = json.loads(text)
    if name == "vocab.json":
        return dict(stored)
    vocabulary = stored.get("model", {}).get("vocab", {})
    if isinstance(vocabulary, list):  # unigram models: pairs of token and score, numbered by place
        return {pair[0]: number for number, pair in enumerate(vocabulary)}
    return dict(vocabulary)


def _labels(config: Mapping[str, Any]) -> list[str]:
    """Label names in order; transformers writes none for two unnamed labels."""
    named = config.get("id2label")
    if not named:
        return [f"LABEL_{number}" for number in range(config.get("num_labels", 2))]
    return [named[number] for number in sorted(named, key=int)]
