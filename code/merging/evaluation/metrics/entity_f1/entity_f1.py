"""Entity F1: spans that are found with exactly their words and their type, of all sentences together.

    F1 = 2 TP / (spans found + spans there)

as in the shared task CoNLL-2003 (Tjong Kim Sang and De Meulder 2003) and its script conlleval: tags are
``O``, ``B-PER``, ``I-PER`` and so on. A span begins at B (also S, U: a span of one word), at another type,
and at an I or E (L) that continues nothing; it ends before the next beginning or O, and after E, L, S or U.
Tags of any other form (parts of speech) are spans of one word each.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from merging.evaluation.metrics import _tags  # a class would be taken for the metric by evaluate.load

_BEGIN, _INSIDE, _SINGLE, _END = "B", "I", "SU", "EL"

Span = tuple[int, int, str]
"""First word, word after the last, type."""


def spans(tags: Sequence[str]) -> set[Span]:
    """Return the spans of a sentence."""
    found: set[Span] = set()
    start, kind = 0, ""  # of the span that is open; no type: none
    for word, tag in enumerate([*tags, "O"]):
        place, dash, name = tag.partition("-")
        if tag != "O" and not (dash and len(place) == 1 and place in _BEGIN + _INSIDE + _SINGLE + _END):
            place, name = "S", tag
        goes_on = kind != "" and name == kind and place in _INSIDE + _END
        if kind and not goes_on:
            found.add((start, word, kind))
            kind = ""
        if tag != "O":
            if not goes_on:
                start, kind = word, name
            if place in _SINGLE + _END:
                found.add((start, word + 1, kind))
                kind = ""
    return found


def counts(predictions: np.ndarray, references: np.ndarray) -> np.ndarray:
    """Return right spans, spans found and spans there, (N, 3), of each of N sentences."""
    pairs = [(spans(ours), spans(true)) for ours, true in zip(predictions, references, strict=True)]
    return np.array([[len(ours & true), len(ours), len(true)] for ours, true in pairs])


def of_counts(totals: np.ndarray) -> float:
    """Return F1, 0..1, from right spans, spans found and spans there; 0 where there are none."""
    right, found, there = totals
    return float(2 * right / (found + there)) if found + there else 0.0


def score(predictions: np.ndarray, references: np.ndarray) -> float:
    """Return F1, 0..1, of (N,) lists of tags."""
    return of_counts(counts(predictions, references).sum(0))


class Metric(_tags.TagMetric):
    """``{"entity_f1": value}``."""

    NAME = "entity_f1"
    score = staticmethod(score)
