"""Which examples an estimate sees, in which order, and which of them are whose."""

from __future__ import annotations

from collections.abc import Sequence

import datasets
import numpy as np

from merging.data import splits

_HALVES = 1  # tells the draw of halves from that of examples


def choose(rows: datasets.Dataset, max_examples: int | None, seed: int) -> list[int]:
    """Places of the examples to be seen: all, or a stratified sample without replacement."""
    if max_examples is None or max_examples >= len(rows):
        return list(range(len(rows)))
    labels = rows["labels"][:] if "labels" in rows.column_names else None
    if labels is not None and not isinstance(labels[0], int):  # a label for each position makes no strata
        labels = None
    return [int(place) for place in splits.permutation(labels, len(rows), seed)[:max_examples]]


def by_length(rows: datasets.Dataset, places: Sequence[int]) -> list[int]:
    """Sort examples so that batches hold like lengths, long ones first: what does not fit into memory fails
    at once."""
    lengths = rows["length"][:] if "length" in rows.column_names else [0] * len(rows)
    return sorted(places, key=lambda place: (-lengths[place], place))


def halves(ordered: Sequence[int], seed: int) -> list[list[int]]:
    """Split examples into two random halves, each in the given order; the first example is in the first one.

    Of fewer than two examples there is one part.
    """
    if len(ordered) < 2:
        return [list(ordered)]
    is_first = np.zeros(len(ordered), dtype=bool)
    is_first[np.random.default_rng((seed, _HALVES)).permutation(len(ordered))[: (len(ordered) + 1) // 2]] = (
        True
    )
    if not is_first[0]:
        is_first = ~is_first
    return [
        [place for place, its in zip(ordered, is_first, strict=True) if its == part] for part in (True, False)
    ]


def shares(parts: Sequence[Sequence[int]], rank: int, count: int) -> list[list[int]]:
    """What one of several processes sees of each part: every ``count``-th example, of all lengths alike."""
    return [list(part[rank::count]) for part in parts]
