"""Finding the paths inside a value: what a job depends on."""

from __future__ import annotations

import enum
import types
from typing import Any

from sisyphus.hash import get_object_state

_LEAVES: frozenset[type] = frozenset(
    {type(None), int, float, bool, str, complex, bytes, bytearray, types.FunctionType, types.ModuleType, type}
)
_SEQUENCES = (list, tuple, set, frozenset)


def extract_paths(value: Any) -> set[Any]:
    """Return all paths inside ``value``: in containers, in values of dicts, and in attributes of objects.

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
        if isinstance(item, _SEQUENCES):
            waiting.extend(item)
            waiting.append(getattr(item, "__dict__", None))
        elif isinstance(item, dict):
            waiting.extend(v for k, v in item.items() if not (isinstance(k, str) and k.startswith("_sis_")))
            waiting.append(getattr(item, "__dict__", None))
        elif isinstance(item, (type, enum.Enum)) or getattr(cls, "_sis_no_paths_inside", False):
            continue
        elif getattr(item, "_sis_path", None) is True:
            found.add(item)
        elif isinstance(getattr(item, "_sis_inputs", None), set):  # a job
            found |= item._sis_inputs
            found.update(item._sis_outputs.values())
        else:
            state = _state_or_nothing(item)
            kept.append(state)
            waiting.append(state)
    return found


def _state_or_nothing(item: Any) -> Any:
    """The state of an object; None where it cannot be read, because then no path can hide in it."""
    try:
        return get_object_state(item)
    except (AssertionError, NotImplementedError):
        return None
