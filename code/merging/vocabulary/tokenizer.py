"""The tokenizer of a joint vocabulary: the reference's, with tokens added or taken away.

New tokens become tokens of the tokenizer's model (with the merges or scores that make them), not added ones,
so that they occur in texts as they did in the tokenizer that they come from.
"""

from __future__ import annotations

import copy
import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from merging.errors import CheckpointError
from merging.vocabulary.tokens import TOKENIZER_NAME, vocabulary_of

KEPT_FILES = ("special_tokens_map.json", "chat_template.jinja", "chat_template.json")
TOKENIZER_FILES = (
    TOKENIZER_NAME, "tokenizer_config.json", "added_tokens.json", "vocab.txt", "vocab.json", "merges.txt",
    "bpe.codes", "spiece.model", "sentencepiece.bpe.model", "tokenizer.model", "source.spm", "target.spm",
    *KEPT_FILES,
)  # fmt: skip
"""Everything that may belong to a tokenizer."""

SAMPLES = (
    "The quick brown fox jumps over the lazy dog.",
    "Merging 2 models: 3.14 + 2.71 = 5.85?",
    "  two  spaces,\ta tab\nand a new line",
    "def f(x):\n    return x ** 2",
    "Größe, naïveté, 東京, привет, 🙂",
)
"""What the round trip is tried with, beside one text for each thousandth token."""


def write_tokenizer(
    folder: Path, *, reference: Path, others: Mapping[str, Path], tokens: Mapping[str, int]
) -> None:
    """Write the files of a tokenizer that knows exactly ``tokens``.

    Args:
        folder: where to write.
        reference: folder of the tokenizer to start from.
        others: folders of those that further tokens come from, by label.
        tokens: number of every token.

    Raises:
        CheckpointError: a tokenizer is not there in the form of ``tokenizer.json``, or of another kind.
    """
    stored = _read(reference / TOKENIZER_NAME, "the reference")
    known = vocabulary_of(stored) | {its["content"]: its["id"] for its in stored.get("added_tokens", [])}
    if known == dict(tokens):
        for name in TOKENIZER_FILES:
            if (reference / name).is_file():
                shutil.copyfile(reference / name, folder / name)
        return
    further = {label: _read(path / TOKENIZER_NAME, label) for label, path in sorted(others.items())}
    joint = join(stored, further, tokens)
    (folder / TOKENIZER_NAME).write_text(json.dumps(joint, ensure_ascii=False, indent=2), encoding="utf-8")
    for name in KEPT_FILES:
        if (reference / name).is_file():
            shutil.copyfile(reference / name, folder / name)
    if (reference / "tokenizer_config.json").is_file():
        config = _read(reference / "tokenizer_config.json", "the reference")
        if "added_tokens_decoder" in config:
            config["added_tokens_decoder"] = {
                str(its["id"]): {key: value for key, value in its.items() if key != "id"}
                for its in joint["added_tokens"]
            }
        (folder / "tokenizer_config.json").write_text(
            json.dumps(config, ensure_ascii=False, indent=2) + "\n", encoding="utf-8"
        )


def join(
    reference: Mapping[str, Any], others: Mapping[str, Mapping[str, Any]], tokens: Mapping[str, int]
) -> dict[str, Any]:
    """The content of a ``tokenizer.json`` that knows exactly ``tokens``; see ``write_tokenizer``.

    Raises:
        CheckpointError: tokenizers of different kinds, or a token that cannot be done without is gone.
    """
    joint = copy.deepcopy(dict(reference))
    model = joint["model"]
    kind = model.get("type")
    for label, other in others.items():
        if other["model"].get("type") != kind:
            raise CheckpointError(
                f"tokenizers differ in kind: {kind} in the reference, {other['model'].get('type')} in "
                f"{label}. "
                'Their tokens cannot be joined; pass the policy {"vocabulary": "base"}.'
            )
    joint["added_tokens"] = _added(reference, others, tokens)
    in_order = sorted(tokens, key=lambda token: tokens[token])
    models = [reference["model"], *(other["model"] for other in others.values())]
    if isinstance(model["vocab"], list):
        scores: dict[str, float] = {}
        for its in reversed(models):
            scores |= {pair[0]: pair[1] for pair in its["vocab"]}
        if tokens[in_order[-1]] + 1 != len(tokens):
            raise CheckpointError(
                "the reference's tokenizer is a unigram model with gaps between the numbers of its tokens: "
                'nothing can be added. Pass the policy {"vocabulary": "base"}.'
            )
        model["vocab"] = [[token, scores.get(token, 0.0)] for token in in_order]
        old = reference["model"].get("unk_id")
        if old is not None:
            model["unk_id"] = _needed(reference["model"]["vocab"][old][0], tokens)
    else:
        # added ones, too: those that the model does not know are numbered anew when the file is read
        model["vocab"] = {token: tokens[token] for token in in_order}
        if model.get("unk_token") is not None:
            _needed(model["unk_token"], tokens)
    if "merges" in model:
        model["merges"] = _merges(models, model["vocab"])
    if joint.get("post_processor"):
        _renumber_template(joint["post_processor"], tokens)
    if joint.get("padding"):
        joint["padding"]["pad_id"] = _needed(joint["padding"]["pad_token"], tokens)
    return joint


def _added(
    reference: Mapping[str, Any], others: Mapping[str, Mapping[str, Any]], tokens: Mapping[str, int]
) -> list[dict[str, Any]]:
    """Added tokens with their new numbers: the reference's, and those that it does not know at all."""
    known = set(vocabulary_of(reference))
    found: dict[str, dict[str, Any]] = {its["content"]: its for its in reference.get("added_tokens", [])}
    known |= set(found)
    for other in others.values():
        for its in other.get("added_tokens", []):
            if its["content"] not in known:
                found.setdefault(its["content"], its)
    kept = [{**its, "id": tokens[content]} for content, its in found.items() if content in tokens]
    return sorted(kept, key=lambda its: int(its["id"]))


def _merges(models: Sequence[Mapping[str, Any]], vocabulary: Mapping[str, int]) -> list[Any]:
    """The reference's merges, then the others', as far as all their tokens are known."""
    as_text = bool(models[0]["merges"]) and isinstance(models[0]["merges"][0], str)
    pairs: dict[tuple[str, str], None] = {}
    for model in models:
        for merge in model.get("merges", []):
            left, _, right = merge.partition(" ") if isinstance(merge, str) else (merge[0], "", merge[1])
            if left in vocabulary and right in vocabulary and left + right in vocabulary:
                pairs[left, right] = None
    return [f"{left} {right}" if as_text else [left, right] for left, right in pairs]


def _renumber_template(processor: dict[str, Any], tokens: Mapping[str, int]) -> None:
    """Give the tokens that are put around every text their new numbers, in place."""
    for its in processor.get("processors", []):
        _renumber_template(its, tokens)
    for key in ("sep", "cls"):
        if isinstance(processor.get(key), list):
            processor[key][1] = _needed(processor[key][0], tokens)
    for its in (processor.get("special_tokens") or {}).values():
        its["ids"] = [_needed(token, tokens) for token in its["tokens"]]


def _needed(token: str, tokens: Mapping[str, int]) -> int:
    if token not in tokens:
        raise CheckpointError(
            f"the tokenizer needs the token {token!r}, which not all models have. Pass the policy "
            '{"vocabulary": "base"} or {"vocabulary": "union"}.'
        )
    return tokens[token]


def check_round_trip(
    folder: Path, *, reference: Path, tokens: Mapping[str, int], num_rows: int
) -> dict[str, int]:
    """Prove that the tokenizer in ``folder`` fits the embedding, and reads and writes texts as its reference.

    Args:
        folder: of the merged model.
        reference: folder of the tokenizer that it was made from.
        tokens: what it is to know.
        num_rows: of the embedding.

    Returns:
        How many texts were tried, and how many came back as from the reference.

    Raises:
        CheckpointError: it knows other tokens, or gives a number that has no row, or writes a text
            differently from its reference, though no token was taken away and the reference knows all of it.
    """
    from tokenizers import Tokenizer

    made = Tokenizer.from_file(str(folder / TOKENIZER_NAME))
    original = Tokenizer.from_file(str(reference / TOKENIZER_NAME))
    found = made.get_vocab(with_added_tokens=True)
    if found != dict(tokens) or max(found.values()) >= num_rows:
        raise CheckpointError(
            f"{folder / TOKENIZER_NAME}: the tokenizer knows {len(found)} tokens up to number "
            f"{max(found.values())}, the embedding has {len(tokens)} tokens in {num_rows} rows."
        )
    listed = sorted(tokens, key=lambda token: tokens[token])
    texts = [*SAMPLES, *(made.decode([tokens[token]]) for token in listed[:: max(1, len(listed) // 1000)])]
    keeps_all = set(original.get_vocab(with_added_tokens=True)) <= set(tokens)
    unknown = _unknown_token(_read(reference / TOKENIZER_NAME, "the reference")["model"])
    num_same = 0
    for text in texts:
        numbers = made.encode(text).ids
        if any(number >= num_rows for number in numbers):
            raise CheckpointError(
                f"{folder / TOKENIZER_NAME}: {text!r} gives the number {max(numbers)}, the embedding has "
                f"{num_rows} rows."
            )
        encoded = original.encode(text)
        before, after = original.decode(encoded.ids), made.decode(numbers)
        num_same += after == before
        if after != before and keeps_all and (unknown is None or unknown not in encoded.tokens):
            raise CheckpointError(
                f"the joint tokenizer turns {text!r} into {after!r}, its reference into {before!r}. Pass the "
                'policy {"vocabulary": "base"}.'
            )
    return {"texts": len(texts), "as_before": num_same}


def _unknown_token(model: Mapping[str, Any]) -> str | None:
    """What stands for anything that a tokenizer's model does not know."""
    if isinstance(model["vocab"], list):
        number = model.get("unk_id")
        return None if number is None else str(model["vocab"][number][0])
    unknown = model.get("unk_token")
    return None if unknown is None else str(unknown)


def _read(path: Path, label: str) -> dict[str, Any]:
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise CheckpointError(
            f"{label}: {path.parent} has no {path.name}. Vocabularies are joined through it: load the "
            "tokenizer with transformers' AutoTokenizer and call save_pretrained(folder)."
        ) from error
    except ValueError as error:
        raise CheckpointError(f"{label}: {path} is damaged: {error}. Copy it again.") from error
    if not isinstance(stored, dict):
        raise CheckpointError(f"{label}: {path} is damaged: it holds no object. Copy it again.")
    return stored
