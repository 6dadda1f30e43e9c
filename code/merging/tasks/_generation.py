"""Texts that models of tokens write: greedily, and what they would have written after the right beginning."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from merging import models
from merging.errors import DataError
from merging.tasks import _likelihood
from merging.tasks._texts import padding_token

if TYPE_CHECKING:
    import numpy as np
    import transformers
    from torch import Tensor

_KEPT = ("bos_token_id", "decoder_start_token_id", "forced_bos_token_id", "forced_eos_token_id")
"""What the generation settings of a model say about its tokens; those of sampling and beams are left out."""


def greedy_texts(
    model: Any, tokenizer: Any, inputs: Mapping[str, Tensor], *, max_new_tokens: int
) -> list[str]:
    """Return what a model writes for each row of ``inputs``, always the likeliest token.

    Nothing is drawn, so that the same model always writes the same. Settings beside the model about sampling,
    beams, penalties and lengths are not used.

    Args:
        model: with a ``generate`` of transformers.
        tokenizer: special tokens are left out of the texts.
        inputs: ``input_ids`` and ``attention_mask``, (B, R); padded on the left where the model goes on with
            them.
        max_new_tokens: texts that have no end by then are cut.

    Raises:
        DataError: the model has no position left after its input.
    """
    from transformers import GenerationConfig

    length = inputs["input_ids"].shape[1]
    is_decoder_only = not model.config.is_encoder_decoder
    room = getattr(model.config, "max_position_embeddings", None)
    if room is not None:
        max_new_tokens = min(max_new_tokens, room - length if is_decoder_only else room - 1)
    if max_new_tokens < 1:
        raise DataError(
            f"an input of {length} tokens leaves no room to write: the model has {room} positions. "
            "Choose a smaller max_tokens."
        )
    own = model.generation_config
    kept = {name: getattr(own, name, None) for name in _KEPT}
    kept["eos_token_id"] = tokenizer.eos_token_id if own.eos_token_id is None else own.eos_token_id
    plain = GenerationConfig(
        max_new_tokens=max_new_tokens,
        do_sample=False,
        num_beams=1,
        pad_token_id=padding_token(tokenizer),
        **kept,
    )
    model.generation_config = plain  # generate() fills in whatever we do not set from the model's own
    try:
        with models.quiet():
            written = model.generate(**inputs, generation_config=plain)
    finally:
        model.generation_config = own
    return texts(tokenizer, written[:, length:] if is_decoder_only else written)


def forced_records(tokenizer: Any, scores: Tensor, labels: Tensor) -> list[dict[str, Any]]:
    """Return one record for each example from scores under teacher forcing.

    ``prediction`` is the likeliest token at each position after the right ones before it. It is the
    reference exactly where greedy writing gives it, so that exact matches can be counted without any. Beside
    it stand ``reference``, ``log_likelihood`` (nats, summed over tokens), ``num_tokens`` and ``num_correct``.

    Args:
        tokenizer: special tokens are left out of the texts.
        scores: logits, (B, R, V).
        labels: (B, R), -100 where nothing is predicted.

    Raises:
        DataError: log-likelihoods that are not finite.
    """
    counted = labels != _likelihood.IGNORED
    log_likelihoods = _likelihood.log_likelihoods(scores, labels)
    if not log_likelihoods.isfinite().all():
        raise DataError(
            "the model gives NaN or infinite scores; its weights are finite but far too large. "
            "Train it again, with a smaller learning rate."
        )
    chosen = scores.argmax(-1)
    right = (chosen == labels) & counted
    rows = zip(chosen, labels, counted, log_likelihoods.tolist(), right.sum(-1).tolist(), strict=True)
    return [
        {
            "prediction": text(tokenizer, row[where]),
            "reference": text(tokenizer, label[where]),
            "log_likelihood": log_likelihood,
            "num_tokens": int(where.sum()),
            "num_correct": num_correct,
        }
        for row, label, where, log_likelihood, num_correct in rows
    ]


def predictions(scores: np.ndarray) -> list[dict[str, Any]]:
    """Return the likeliest token at each position of (N, R, V) scores, as ``prediction``."""
    return [{"prediction": row.tolist()} for row in scores.argmax(axis=-1)]


def texts(tokenizer: Any, tokens: Tensor) -> list[str]:
    """Turn (B, R) tokens into texts, without special tokens and without blanks at both ends."""
    return [text(tokenizer, row) for row in tokens]


def text(tokenizer: Any, tokens: Tensor) -> str:
    """Turn (R,) tokens into a text, without special tokens and without blanks at both ends."""
    return str(tokenizer.decode(tokens.tolist(), skip_special_tokens=True)).strip()


def start_token(config: transformers.PretrainedConfig, folder: str) -> int | None:
    """Return the token that a decoder starts with: the configuration's, else of the generation settings."""
    from transformers import GenerationConfig

    start: int | None = getattr(config, "decoder_start_token_id", None)
    if start is None:
        try:
            start = GenerationConfig.from_pretrained(folder).decoder_start_token_id
        except OSError:  # there are none
            return None
    return start
