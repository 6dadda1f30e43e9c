"""The vocabulary of a mergekit file's models: joined as ``tokenizer`` says, or cut to a common length."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path

from merging.errors import OptionError
from merging.merge.compatibility import vocabulary_size
from merging.mergekit import translate
from merging.mergekit.arrange import Opened
from merging.mergekit.config import Config, Reference, TokenSource
from merging.registry import unknown
from merging.sources.vocabulary import Rows, VocabularySource, vocabulary_tensors
from merging.vocabulary.alignment import Alignment, align
from merging.vocabulary.joint import Given
from merging.vocabulary.tokens import read_tokens


def join(
    config: Config, opened: Mapping[Reference, Opened], *, tokenizer: Path
) -> tuple[Alignment | None, dict[Reference, Opened]]:
    """Bring all models to one vocabulary.

    Args:
        config: a file with a tokenizer.
        opened: its models.
        tokenizer: folder of the tokenizer that is the output's, or is extended to it.

    Returns:
        The joint vocabulary, None if all models have it already; and the models with that vocabulary.

    Raises:
        OptionError: a row is to come from a model or token that is not there.
        CheckpointError: a model without tokenizer, or vocabularies that cannot be joined.
    """
    assert config.tokenizer is not None
    order = sorted(opened, key=lambda its: its != config.owner)  # whose config the output gets comes first
    alignment = align(
        "union" if config.tokenizer.source == "union" else "base",
        {str(its): opened[its].source for its in order},
        folders={str(its): opened[its].folder for its in order},
        configs={str(its): opened[its].config for its in order},
        base=str(config.base_model) if translate.uses_base(config) else None,
        reference=tokenizer,
        multiple=config.tokenizer.pad_to_multiple_of or 1,
        given={token: _given(token, its, opened) for token, its in config.tokenizer.tokens.items()},
    )
    if alignment is None:
        return None, dict(opened)
    return alignment, {
        its: dataclasses.replace(
            model,
            source=alignment.model(str(its)),
            config=alignment.config(model.config, str(its)),
        )
        for its, model in opened.items()
    }


def truncate(opened: Mapping[Reference, Opened]) -> dict[Reference, Opened]:
    """Cut embeddings and heads to the smallest vocabulary, as mergekit does where no tokenizer is given."""
    sizes = {its: vocabulary_size({"": model.config}) for its, model in opened.items()}
    known = {its: size for its, size in sizes.items() if size is not None}
    if len(set(known.values())) < 2:
        return dict(opened)
    smallest = min(known.values())
    cut = dict(opened)
    for its, size in known.items():
        model = opened[its]
        names = vocabulary_tensors(model.source.tensors, size)
        config = dict(model.config)
        place = config if "vocab_size" in config else dict(config["text_config"])
        place["vocab_size"] = smallest
        cut[its] = dataclasses.replace(
            model,
            source=VocabularySource(model.source, Rows(range(smallest), {}), names),
            config=config if place is config else config | {"text_config": place},
        )
    return cut


def _given(token: str, source: TokenSource, opened: Mapping[Reference, Opened]) -> Given:
    """Where the row of a token comes from."""
    if source.model is None:
        return Given(None, force=source.force)
    owner = f"tokenizer: tokens[{token!r}]"
    if source.model not in opened:
        raise OptionError(f"{owner}: {unknown('model', str(source.model), map(str, opened))}")
    if source.token_id is not None:
        return Given(str(source.model), source.token_id, source.force)
    wanted = source.token or token
    tokens = read_tokens(opened[source.model].folder, label=str(source.model)) or {}
    if wanted not in tokens:
        raise OptionError(f"{owner}: {source.model} has no token {wanted!r}. Name one that it has.")
    return Given(str(source.model), tokens[wanted], source.force)
