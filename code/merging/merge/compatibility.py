"""Whether model folders belong together: labels, vocabularies, quantisation; read from their small files."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from merging.errors import CheckpointError
from merging.vocabulary.tokens import read_tokens

_MATCHING = 'Pass the policy {"vocabulary": "base"}, "union" or "intersect" to match rows by token.'
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
    """Rows of the embeddings of the first model, where its config says so.

    Models that are put together have a config for each part: the decoder's counts, whose head may be tied.
    """
    return _vocabulary_size(next(iter(configs.values())))


def _vocabulary_size(config: Mapping[str, Any]) -> int | None:
    if config.get("vocab_size") is not None:
        return int(config["vocab_size"])
    first = [config[key] for key in ("text_config", "decoder") if key in config]
    parts = [part for part in (*first, *config.values()) if isinstance(part, Mapping)]
    return next((size for part in parts if (size := _vocabulary_size(part)) is not None), None)


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


def check_vocabularies(
    folders: Mapping[str, Path], *, by_number: bool = False, advice: str = _MATCHING
) -> None:
    """Refuse models whose tokenizers give one token two numbers, or one number two tokens.

    Args:
        folders: of the models, by label.
        by_number: allow two tokens of one number, of which the output gets the first model's; a policy that
            matches rows by their number asks for that.
        advice: what to do, for the error text.

    Raises:
        CheckpointError: vocabularies differ, or a tokenizer is damaged.
    """
    vocabularies = {owner: read_tokens(folder, label=owner) for owner, folder in folders.items()}
    known = {owner: tokens for owner, tokens in vocabularies.items() if tokens is not None}
    if not known:
        return
    first, reference = next(iter(known.items()))
    by_row = {number: token for token, number in reference.items()}
    for owner, tokens in known.items():
        if tokens == reference:
            continue
        for token, number in tokens.items():
            if reference.get(token, number) != number:
                raise CheckpointError(
                    f"vocabularies differ: the token {token!r} is number {reference[token]} in {first} and "
                    f"{number} in {owner}. Rows of their embeddings mean different tokens. {advice}"
                )
            if by_row.get(number, token) != token and not by_number:
                raise CheckpointError(
                    f"vocabularies differ: number {number} is the token {by_row[number]!r} in {first} and "
                    f'{token!r} in {owner}. {advice} To match them by number, pass {{"rows": "base"}}.'
                )


def _labels(config: Mapping[str, Any]) -> list[str]:
    """Label names in order; transformers writes none for two unnamed labels."""
    named = config.get("id2label")
    if not named:
        return [f"LABEL_{number}" for number in range(config.get("num_labels", 2))]
    return [named[number] for number in sorted(named, key=int)]
