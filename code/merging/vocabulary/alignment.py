"""All models of one merge, brought to a joint vocabulary."""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from merging.errors import CheckpointError
from merging.merge.compatibility import vocabulary_size
from merging.sources import Source
from merging.sources.vocabulary import VocabularySource, vocabulary_tensors
from merging.vocabulary.joint import Given, Joint, Kind, Member, make_joint
from merging.vocabulary.tokenizer import TOKENIZER_FILES, check_round_trip, write_tokenizer
from merging.vocabulary.tokens import TOKENIZER_NAME, read_tokens

_TOKEN_NUMBER = re.compile(r"(token_id|token_index|suppress_tokens)$")


@dataclass(frozen=True)
class Alignment:
    """Models with a joint vocabulary."""

    kind: Kind
    joint: Joint
    files: Mapping[str, bytes] = field(repr=False)
    """The joint tokenizer: content by name."""
    round_trip: Mapping[str, int] | None
    """How many texts were tried with it, and how many came back as before; None: the tokenizer is the
    reference's, and in a form that is not read here."""
    names: frozenset[str]
    """Tensors whose rows are tokens."""
    sources: Mapping[str, Source]
    """The models as they are stored, by label."""
    members: Mapping[str, Member]
    """Their vocabularies."""

    @property
    def keeps_first(self) -> bool:
        """Whether config and tokenizer of the first model fit the output as they are."""
        first = next(iter(self.members.values()))
        return self.joint.tokens == first.tokens and self.joint.num_rows == first.num_rows

    def model(self, label: str) -> VocabularySource:
        """One model with the joint vocabulary."""
        source = self.sources[label]
        return VocabularySource(
            source, self.joint.rows(label, self.sources), self.names & set(source.tensors)
        )

    def curvature(self, source: Source, model: str) -> VocabularySource:
        """A diagonal curvature of the model with that label; it is 0 for tokens that the model lacks."""
        return VocabularySource(source, self.joint.curvature_rows(model), self.names & set(source.tensors))

    def config(self, config: Mapping[str, Any], label: str) -> dict[str, Any]:
        """``config.json`` or ``generation_config.json`` of that model, with the joint numbers of tokens.

        Special tokens that the joint vocabulary lacks are left out.
        """
        tokens = {number: token for token, number in self.members[label].tokens.items()}
        changed = {key: self._renumbered(key, value, tokens) for key, value in config.items()}
        if isinstance(config.get("text_config"), Mapping):
            changed["text_config"] = self.config(config["text_config"], label)
        if "vocab_size" in config:
            changed["vocab_size"] = self.joint.num_rows
        return changed

    def write(self, folder: Path) -> dict[str, Any]:
        """Write the joint tokenizer into a model folder, in place of any other.

        The config that lies there is the first model's, and gets the new numbers of tokens.

        Returns:
            What ``merge.json`` says of it.
        """
        for name in ("config.json", "generation_config.json"):
            if (folder / name).is_file():
                config = self.config(json.loads((folder / name).read_text()), next(iter(self.sources)))
                (folder / name).write_text(json.dumps(config, indent=2) + "\n")
        for name in TOKENIZER_FILES:
            (folder / name).unlink(missing_ok=True)
        for name, content in self.files.items():
            (folder / name).write_bytes(content)
        return {
            "kind": self.kind,
            "num_tokens": len(self.joint.tokens),
            "num_rows": self.joint.num_rows,
            "num_filled": self.joint.num_filled,
            "tensors": sorted(self.names),
            "round_trip": self.round_trip,
        }

    def _renumbered(self, key: str, value: Any, tokens: Mapping[int, str]) -> Any:
        """The value of a key of a config, where it is a token's number or a list of these."""
        if not _TOKEN_NUMBER.search(key):
            return value
        if isinstance(value, list):
            numbers = [self.joint.tokens.get(tokens.get(number, "")) for number in value]
            return [number for number in numbers if number is not None]
        return self.joint.tokens.get(tokens.get(value, "")) if isinstance(value, int) else value


def align(
    kind: Kind,
    sources: Mapping[str, Source],
    *,
    folders: Mapping[str, Path],
    configs: Mapping[str, Mapping[str, Any]],
    base: str | None,
    reference: Path | None = None,
    multiple: int = 1,
    given: Mapping[str, Given] | None = None,
) -> Alignment | None:
    """Find the joint vocabulary of models, and make and check its tokenizer; reads no tensor.

    Args:
        kind: "base", "union" or "intersect"; see ``make_joint``.
        sources: by label, the one first whose config the output gets.
        folders: where the tokenizer of each lies.
        configs: ``config.json`` of each.
        base: label of the base model, where there is one.
        reference: folder of the tokenizer whose tokens keep their numbers; None: the first model's.
        multiple: the embedding gets a multiple of that many rows.
        given: rows that are to come from somewhere else, by token.

    Returns:
        None if all models have the same vocabulary, and that is the joint one.

    Raises:
        CheckpointError: a model without tokenizer, or vocabularies that cannot be joined.
    """
    members = {label: _member(folders[label], configs[label], label) for label in sources}
    first = next(iter(sources))
    folder = reference or folders[first]
    tokens = _tokens(folder, "the reference")
    owners = [label for label in sources if folders[label] == folder]
    joint = make_joint(
        kind,
        members,
        reference=tokens,
        num_rows=members[owners[0]].num_rows if owners else max(tokens.values()) + 1,
        base=base,
        multiple=multiple,
        given=given,
    )
    if all(list(own) == list(range(members[label].num_rows)) for label, own in joint.own.items()):
        return None
    by_token = {
        label: vocabulary_tensors(its.tensors, members[label].num_rows) for label, its in sources.items()
    }
    names = (
        frozenset(  # of other shapes elsewhere: a chance, or an error that the plan of the merge will find
            name
            for name in frozenset[str]().union(*by_token.values())
            if all(name in by_token[label] for label, its in sources.items() if name in its.tensors)
        )
    )
    further = {label: its for label, its in folders.items() if its != folder and kind == "union"}
    files, round_trip = _make_tokenizer(kind, joint, folder, further)
    return Alignment(kind, joint, files, round_trip, names, dict(sources), members)


def _make_tokenizer(
    kind: Kind, joint: Joint, reference: Path, others: Mapping[str, Path]
) -> tuple[dict[str, bytes], dict[str, int] | None]:
    """The files of the joint tokenizer, and what its round trip gave."""
    if kind == "base" and not (reference / TOKENIZER_NAME).is_file():
        present = [name for name in TOKENIZER_FILES if (reference / name).is_file()]
        return {name: (reference / name).read_bytes() for name in present}, None
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_tokenizer(folder, reference=reference, others=others, tokens=joint.tokens)
        round_trip = check_round_trip(
            folder, reference=reference, tokens=joint.tokens, num_rows=joint.num_rows
        )
        return {file.name: file.read_bytes() for file in sorted(folder.iterdir())}, round_trip


def _member(folder: Path, config: Mapping[str, Any], label: str) -> Member:
    num_rows = vocabulary_size({label: config})
    if num_rows is None:
        raise CheckpointError(
            f"{label}: config.json of {folder} has no vocab_size, so its vocabulary cannot be matched. Merge "
            'models of one tokenizer, with the policy {"vocabulary": "error"}.'
        )
    return Member(_tokens(folder, label), num_rows)


def _tokens(folder: Path, label: str) -> dict[str, int]:
    tokens = read_tokens(folder, label=label)
    if not tokens:
        raise CheckpointError(
            f"{label}: {folder} has no tokenizer.json, vocab.txt or vocab.json, so its tokens cannot be "
            "matched with those of other models. Save its tokenizer there with "
            "transformers: AutoTokenizer.from_pretrained(...) and save_pretrained(folder)."
        )
    return tokens
