"""Why two jobs have different ids: the ways in which two objects differ."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from sisyphus.hash import get_object_state, sis_hash_helper
from sisyphus.job import Job
from sisyphus.job_path import AbstractPath

Pair = tuple[Any, Any]


class Missing:
    """Stands for what only the other object has."""

    def __repr__(self) -> str:
        return "<missing>"


MISSING = Missing()


def compare_graph(a: Any, b: Any) -> Iterator[list[Pair]]:
    """Yield each way in which two objects differ, as the list of pairs from the top down to the difference.

    What counts is what enters job ids. A pair of parts is shown once, however many ways lead to it.

    Args:
        a: a job, path, container, or anything that can be an argument of a job.
        b: the same.

    Example:
        Two trainings that differ in one number of the config of their common input::

            for pairs in tk.compare_graph(job_1, job_2):
                print(*pairs, sep="\\n")
    """
    waiting: list[list[Pair]] = [[(a, b)]] if _differ(a, b) else []
    seen: set[tuple[int, int]] = set()
    kept: list[Pair] = []  # parts may be made on the way; they must live as long as their ids count as seen
    while waiting:
        trail = waiting.pop()
        parts = [(x, y) for x, y in _parts(*trail[-1]) if _differ(x, y)]
        if not parts:
            yield trail
        for x, y in reversed(parts):
            if (id(x), id(y)) not in seen:
                seen.add((id(x), id(y)))
                kept.append((x, y))
                waiting.append([*trail, (x, y)])


def _differ(a: Any, b: Any) -> bool:
    if a is b:
        return False
    try:
        return sis_hash_helper(a) != sis_hash_helper(b)
    except Exception:  # noqa: BLE001 - a lambda, or a recipe's class that refuses to be hashed with whatever it likes
        return bool(a != b)


def _parts(a: Any, b: Any) -> list[Pair]:
    """What two objects of one kind consist of, in pairs; nothing if they have to be compared as wholes."""
    if type(a) is not type(b):
        return []
    if isinstance(a, Job):
        return _items(a._sis_kwargs, b._sis_kwargs)
    if isinstance(a, AbstractPath):
        return list(
            zip(a.hash_overwrite or (a.creator, a.path), b.hash_overwrite or (b.creator, b.path), strict=True)
        )
    if isinstance(a, (list, tuple)) and len(a) == len(b):
        return list(zip(a, b, strict=True))
    if isinstance(a, dict):
        return _items(a, b)
    if isinstance(a, (list, tuple, set, frozenset, str, bytes, int, float, complex, type(None), type)):
        return []
    return _parts_of_state(a, b)


def _items(a: dict[Any, Any], b: dict[Any, Any]) -> list[Pair]:
    return [(a.get(key, MISSING), b.get(key, MISSING)) for key in {**a, **b}]


def _parts_of_state(a: Any, b: Any) -> list[Pair]:
    try:
        return [(get_object_state(a), get_object_state(b))]
    except (AssertionError, TypeError):
        return []
