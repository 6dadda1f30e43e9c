"""Finding the paths inside a value: what a job depends on."""

from __future__ import annotations

import enum
import types
from collections.abc import Iterable
from typing import Any, TypeGuard

from sisyphus.hash import get_object_state

_LEAVES: frozenset[type] = frozenset(
    {type(None), int, float, bool, str, complex, bytes, bytearray, types.FunctionType, types.ModuleType, type}
)
_SEQUENCES = (list, tuple, set, frozenset)
_PLAIN_CONTAINERS: frozenset[type] = frozenset({*_SEQUENCES, dict})


def is_path(value: object) -> TypeGuard[Any]:
    """Whether this is a Path or Variable."""
    return getattr(value, "_sis_path", None) is True


def is_job(value: object) -> TypeGuard[Any]:
    """Whether this is a job, not a job class."""
    return hasattr(type(value), "_sis_id")


def extract_paths(value: Any) -> set[Any]:
    """Return all paths inside ``value``: in containers, values of dicts, attributes of objects.

    Not entered: keys of dicts, entries whose name begins with ``_sis_``, blocks, members of enums, and
    objects without readable members.
    """
    found: set[Any] = set()
    seen: set[int] = set()
    kept: list[Any] = []  # states are made on the way; they must live as long as their ids count as seen
    waiting = [value]
    while waiting:
        item = waiting.pop()
        cls = type(item)
        if cls in _LEAVES or id(item) in seen:
            continue
        seen.add(id(item))
        if cls is dict:
            waiting += _values(item)
        elif cls in _PLAIN_CONTAINERS:
            waiting += item
        elif is_path(item):
            found.add(item)
        elif is_job(item):
            found |= item._sis_inputs
            found.update(item._sis_outputs.values())
        elif isinstance(item, (*_SEQUENCES, dict)):
            waiting += _values(item) if isinstance(item, dict) else item
            waiting.append(getattr(item, "__dict__", None))
        elif not (isinstance(item, (type, enum.Enum)) or hasattr(cls, "_sis_no_paths_inside")):
            state = _state_or_nothing(item)
            kept.append(state)
            waiting.append(state)
    return found


def _values(item: dict[Any, Any]) -> Iterable[Any]:
    return [
        value
        for key, value in item.items()
        if type(value) not in _LEAVES and not (type(key) is str and key.startswith("_sis_"))
    ]


def _state_or_nothing(item: Any) -> Any:
    """The state of an object; None where it cannot be read, because then no path can hide in it."""
    try:
        return get_object_state(item)
    except (AssertionError, NotImplementedError, TypeError):
        return None
