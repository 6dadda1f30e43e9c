"""Parameters of a mergekit file: numbers, gradients over layers, filters by name, on several levels."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from merging.errors import OptionError
from merging.registry import unknown

Constant = float | int | bool


@dataclass(frozen=True)
class Entry:
    """One entry of a list with filters."""

    filter: str | None
    """Part of a tensor's name; None and "*" fit any."""
    value: Setting


Setting = Constant | tuple[float, ...] | tuple[Entry, ...]
"""A constant, a gradient over the layers, or entries of which the first that fits counts."""


def read_setting(value: Any, owner: str) -> Setting:
    """Check the value of a parameter; ``owner`` starts every error message.

    Numbers that YAML takes for texts, such as ``1e-5``, are read as numbers.

    Raises:
        OptionError: it is none of the three kinds, or not finite.
    """
    if isinstance(value, bool):
        return value
    if isinstance(value, int | float | str):
        return _constant(value, owner)
    if isinstance(value, list) and value and all(isinstance(item, Mapping) for item in value):
        return tuple(_entry(item, f"{owner}[{number}]") for number, item in enumerate(value))
    if isinstance(value, list) and value:
        return tuple(float(_constant(item, owner)) for item in value)
    raise OptionError(
        f"{owner} must be a number, a list of numbers (a gradient over the layers) or a list of "
        f"{{filter, value}}, got {value!r}."
    )


def value_at(setting: Setting, name: str, position: float) -> Constant | None:
    """The value of a setting at one tensor.

    Args:
        setting: as read by :func:`read_setting`.
        name: of the tensor; a filter fits if it is part of it.
        position: of its layer in its slice, from 0.0 to 1.0; 0.0 outside of the layers.

    Returns:
        A constant, or None where no entry fits.
    """
    if not isinstance(setting, tuple):
        return setting
    for item in setting:
        if not isinstance(item, Entry):
            return _interpolate([float(point) for point in setting if not isinstance(point, Entry)], position)
        if item.filter in (None, "*") or str(item.filter) in name:
            return value_at(item.value, name, position)
    return None


def first_value(
    levels: Iterable[Mapping[str, Setting]], key: str, name: str, position: float
) -> Constant | None:
    """The value on the innermost level that has one for the tensor; None where none has."""
    for level in levels:
        if key in level:
            found = value_at(level[key], name, position)
            if found is not None:
                return found
    return None


def _interpolate(points: list[float], position: float) -> float:
    place = position * (len(points) - 1)
    low = min(int(place), len(points) - 1)
    high = min(low + 1, len(points) - 1)
    share = place - low
    return (1 - share) * points[low] + share * points[high]


def _constant(value: Any, owner: str) -> float | int:
    if isinstance(value, str):
        try:
            value = float(value)
        except ValueError as error:
            raise OptionError(f"{owner} must be a number, got {value!r}.") from error
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise OptionError(f"{owner} must be a number, got {value!r}.")
    if not math.isfinite(value):
        raise OptionError(f"{owner} must be finite, got {value!r}.")
    return value


def _entry(value: Mapping[str, Any], owner: str) -> Entry:
    for key in value:
        if key not in ("filter", "value"):
            raise OptionError(f"{owner}: {unknown('key', str(key), ('filter', 'value'))}")
    if "value" not in value:
        raise OptionError(f"{owner}: missing 'value'.")
    pattern = value.get("filter")
    if pattern is not None and not isinstance(pattern, str):
        raise OptionError(f"{owner}: filter must be part of a tensor's name, got {pattern!r}.")
    return Entry(pattern, read_setting(value["value"], f"{owner}: value"))
