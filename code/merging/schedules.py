"""Options that differ by layer, name or task: the grammar of values, and their values at one parameter.

Every option that is a number, or a number for each task, may be written as

====================================================== =====================================================
``0.5``                                                the same everywhere
``[0.0, 0.5, 1.0]``                                    a gradient: interpolated linearly over the layers; what
                                                       lies in no layer takes the first number
``{"a": 0.5, "b": [0.0, 1.0]}``                        by task, for options that take a mapping
``[{"filter": "*.mlp.*", "value": 0.2}, {"value": 1}]`` by name: the first entry whose pattern matches counts,
                                                       an entry without filter always does; where none does,
                                                       the option keeps its default (for that task)
====================================================== =====================================================

and these may be nested: the value of an entry is any of the above. A layer is found by the first number in a
name (``encoder.layer.3.output.weight``); encoder and decoder count apart.
"""

from __future__ import annotations

import dataclasses
import functools
import typing
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any

from merging.errors import OptionError
from merging.options import parse
from merging.patterns import matches
from merging.registry import unknown

_ENTRY_KEYS = ("filter", "value")


class Schedule:
    """The options of one merge, for each of its parameters."""

    def __init__(self, options_class: type, options: Mapping[str, Any], *, owner: str) -> None:
        """Check every value that may occur.

        Args:
            options_class: the method's ``Options``.
            options: its fields, as numbers or in the grammar above.
            owner: starts every error message.

        Raises:
            OptionError: an unknown option, a value of the wrong type or out of range, a gradient or filter
                where the option takes no number.
        """
        self._options_class = options_class
        self._owner = owner
        self._given = dict(options)
        numbers = _number_fields(options_class)
        self._varying = tuple(
            key for key, value in options.items() if key in numbers and not _is_constant(value)
        )
        self.variants: list[Any] = [
            self._parse({**self._constants(), key: value})
            for key in self._varying
            for value in _leaves(self._given[key], f"{owner}: {key}")
        ]
        """Options with every value that may occur somewhere, one at a time."""
        self.common: Any = self._parse({key: value_at(its, None, None) for key, its in options.items()})
        """The options where nothing is said of layers or names: of parameters outside of the layers."""

    @property
    def is_constant(self) -> bool:
        """Whether all parameters have the same options."""
        return not self._varying

    @property
    def given(self) -> dict[str, Any]:
        """The options as they were given."""
        return self._given

    def record(self) -> dict[str, Any]:
        """All options with their defaults; what varies is written as it was given."""
        return dataclasses.asdict(self.common) | {key: self._given[key] for key in self._varying}

    def resolver(self, names: Iterable[str]) -> Resolver:
        """The options of each parameter of a model with these names."""
        return Resolver(self, LayerPositions(names))

    def check_filters(self, names: Collection[str]) -> None:
        """Refuse a filter that matches none of a model's tensors: it is misspelt.

        Raises:
            OptionError: says which, and what names are like.
        """
        for key in self._varying:
            for pattern in _filters(self._given[key]):
                if not any(matches(name, [pattern]) for name in names):
                    shown = ", ".join(map(repr, sorted(names)[:3]))
                    raise OptionError(
                        f"{self._owner}: {key} has the filter {pattern!r}, which matches no tensor. Names "
                        f"are like {shown}; filters match whole names, '*' stands for anything."
                    )

    def at(self, name: str, position: float | None) -> Any:
        """The options of one parameter; ``position`` as from :class:`LayerPositions`."""
        if self.is_constant:
            return self.common
        return self._parse({key: value_at(its, name, position) for key, its in self._given.items()})

    def _constants(self) -> dict[str, Any]:
        """Everything given, varying options at their first value."""
        found = dict(self._given)
        for key in self._varying:
            found[key] = next(iter(_leaves(self._given[key], f"{self._owner}: {key}")))
        return found

    def _parse(self, values: Mapping[str, Any]) -> Any:
        given = {key: self._filled(key, its) for key, its in values.items() if its is not NOT_SET}
        return parse(self._options_class, given, owner=self._owner)

    def _filled(self, key: str, value: Any) -> Any:
        """The value of an option, with its default for tasks whose filters match nothing here."""
        if not isinstance(value, Mapping):
            return value
        unset = [task for task, its in value.items() if its is NOT_SET]
        if not unset:
            return value
        default = next(
            field.default for field in dataclasses.fields(self._options_class) if field.name == key
        )
        if not _is_number(default):
            raise OptionError(
                f"{self._owner}: {key} of {unset[0]!r} has filters only, and no default where none matches. "
                'Add an entry without filter, such as {"value": 1.0}.'
            )
        return {task: default if its is NOT_SET else its for task, its in value.items()}


class Resolver:
    """The options of each parameter of one model, each parsed once."""

    def __init__(self, schedule: Schedule, positions: LayerPositions) -> None:
        """Combine a schedule with the layers of a model."""
        self.schedule = schedule
        self._positions = positions
        self._at = functools.cache(lambda name: schedule.at(name, positions.of(name)))

    def at(self, name: str) -> Any:
        """The options of one parameter."""
        return self._at(name)


class LayerPositions:
    """How far up each layer of a model lies, from 0.0 (first) to 1.0 (last)."""

    def __init__(self, names: Iterable[str]) -> None:
        """Find the layers in the names of a model's parameters."""
        self._last: dict[str, int] = {}
        for stack, number in filter(None, map(layer_of, names)):
            self._last[stack] = max(self._last.get(stack, 0), number)

    def of(self, name: str) -> float | None:
        """Position of the layer that a parameter belongs to; None outside of the layers."""
        found = layer_of(name)
        if found is None:
            return None
        stack, number = found
        return number / self._last[stack] if self._last.get(stack) else 0.0


def layer_of(name: str) -> tuple[str, int] | None:
    """The stack and the number of the layer that a name says: the first number among its parts."""
    parts = name.split(".")
    for index, part in enumerate(parts):
        if part.isdigit():
            return ".".join(parts[:index]), int(part)
    return None


class _NotSet:
    """The option keeps its default here."""

    def __repr__(self) -> str:
        return "NOT_SET"


NOT_SET = _NotSet()


def value_at(value: Any, name: str | None, position: float | None) -> Any:
    """The value of an option at one parameter.

    Args:
        value: in the grammar of this module; anything else is returned as it is.
        name: of the parameter; None matches only entries without filter.
        position: of its layer, 0..1; None outside of the layers.

    Returns:
        A number, a mapping from task to number, or ``NOT_SET`` where no entry matches (also of a task).
    """
    if _is_entries(value):
        for entry in value:
            pattern = entry.get("filter")
            if pattern is None or (name is not None and matches(name, [pattern])):
                return value_at(entry["value"], name, position)
        return NOT_SET
    if _is_gradient(value):
        return _interpolate(value, position)
    if isinstance(value, Mapping):
        return {task: value_at(its, name, position) for task, its in value.items()}
    return value


def _interpolate(points: Sequence[float], position: float | None) -> float:
    if position is None or len(points) == 1:
        return float(points[0])
    place = position * (len(points) - 1)
    low = min(int(place), len(points) - 2)
    share = place - low
    return float((1 - share) * points[low] + share * points[low + 1])


def _is_number(value: object) -> bool:
    return type(value) in (int, float)


def _is_gradient(value: object) -> bool:
    return isinstance(value, list | tuple) and bool(value) and all(map(_is_number, value))


def _is_entries(value: object) -> bool:
    return isinstance(value, list | tuple) and bool(value) and all(isinstance(its, Mapping) for its in value)


def _is_constant(value: object) -> bool:
    if isinstance(value, Mapping):
        return all(map(_is_constant, value.values()))
    return not isinstance(value, list | tuple)


def _leaves(value: Any, owner: str) -> Iterator[Any]:
    """Every constant that a value may have somewhere."""
    if _is_entries(value):
        for entry in value:
            for key in entry:
                if key not in _ENTRY_KEYS:
                    raise OptionError(f"{owner}: {unknown('key', key, _ENTRY_KEYS)}.")
            if "value" not in entry:
                raise OptionError(f"{owner}: the entry {dict(entry)!r} lacks 'value'.")
            if not isinstance(entry.get("filter", ""), str):
                raise OptionError(
                    f"{owner}: filter must be a pattern such as '*.mlp.*', got {entry['filter']!r}."
                )
            yield from _leaves(entry["value"], owner)
    elif _is_gradient(value):
        yield from map(float, value)
    elif isinstance(value, list | tuple):
        raise OptionError(
            f"{owner} must be a number, a list of numbers (a gradient over the layers) or a list of "
            f'{{"filter": pattern, "value": ...}}, got {value!r}.'
        )
    elif isinstance(value, Mapping):
        choices = {task: list(_leaves(its, owner)) for task, its in value.items()}
        for number in range(max(map(len, choices.values()), default=0)):
            yield {task: its[min(number, len(its) - 1)] for task, its in choices.items()}
    else:
        yield value


def _filters(value: Any) -> Iterator[str]:
    """Every pattern in a value."""
    if _is_entries(value):
        for entry in value:
            if entry.get("filter") is not None:
                yield entry["filter"]
            yield from _filters(entry["value"])
    elif isinstance(value, Mapping):
        for its in value.values():
            yield from _filters(its)


def _number_fields(options_class: type) -> frozenset[str]:
    """Fields that take a number, or a number for each task."""
    hints = typing.get_type_hints(options_class)
    return frozenset(key for key, hint in hints.items() if _takes_number(hint))


def _takes_number(hint: Any) -> bool:
    if hint is float:
        return True
    origin = typing.get_origin(hint)
    if isinstance(origin, type) and issubclass(origin, Mapping):
        return _takes_number(typing.get_args(hint)[1])
    return origin is not tuple and any(map(_takes_number, typing.get_args(hint)))
