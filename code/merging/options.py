"""Options as plain dicts outside (they are part of job ids), as frozen dataclasses inside."""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Mapping
from typing import Any, TypeVar

from merging.errors import OptionError
from merging.option_fields import type_text
from merging.registry import unknown

T = TypeVar("T")


def parse(options_class: type[T], options: Mapping[str, Any], *, owner: str) -> T:
    """Build ``options_class`` from a mapping; ``owner`` starts every error message.

    Raises:
        OptionError: no mapping, an unknown key, a missing key without default, or a value whose type is not
            exactly the declared one: ``1`` for a float is refused, because 1 and 1.0 give different job ids.
    """
    if not isinstance(options, Mapping):
        raise OptionError(f"{owner} must be a mapping from option to value, got {options!r}.")
    hints = typing.get_type_hints(options_class)
    fields = {field.name: field for field in dataclasses.fields(options_class)}  # type: ignore[arg-type]
    for key, value in options.items():
        if key not in fields:
            raise OptionError(f"{owner}: {unknown('option', key, fields)}")
        if not _fits(value, hints[key]):
            raise OptionError(
                f"{owner}: {key} must be {type_text(hints[key])}, "
                f"got {value!r} of type {type(value).__name__}."
                + (f" Write {float(value)!r}." if type(value) is int and _fits(1.0, hints[key]) else "")
            )
    missing = [
        name
        for name, field in fields.items()
        if name not in options
        and field.default is dataclasses.MISSING
        and field.default_factory is dataclasses.MISSING
    ]
    if missing:
        raise OptionError(f"{owner}: missing option {', '.join(map(repr, missing))}; it has no default.")
    return options_class(**options)


def check_seed(seed: object, *, owner: str) -> None:
    """Refuse what is no seed: NumPy takes whole numbers of 32 bits, and True or "1" is a mistake.

    Raises:
        OptionError: not an int, or out of range.
    """
    if type(seed) is not int or not 0 <= seed < 2**32:
        raise OptionError(f"{owner}: seed must be an int in 0..{2**32 - 1}, got {seed!r}.")


def _fits(value: object, hint: Any) -> bool:
    """Whether a value is exactly of a declared type: no int for float, no bool for int."""
    origin = typing.get_origin(hint)
    arguments = typing.get_args(hint)
    if hint is Any:
        return True
    if origin in (typing.Union, types.UnionType):
        return any(_fits(value, choice) for choice in arguments)
    if origin is typing.Literal:
        return any(type(value) is type(choice) and value == choice for choice in arguments)
    if origin is tuple:  # lists are what JSON and configs hold
        if not isinstance(value, list | tuple):
            return False
        if len(arguments) == 2 and arguments[1] is Ellipsis:
            return all(_fits(item, arguments[0]) for item in value)
        return len(value) == len(arguments) and all(map(_fits, value, arguments))
    if isinstance(origin, type) and issubclass(origin, Mapping):
        return isinstance(value, Mapping) and all(
            _fits(key, arguments[0]) and _fits(item, arguments[1]) for key, item in value.items()
        )
    if isinstance(origin, type):
        return isinstance(value, origin) and not isinstance(value, str)
    if hint is None or hint is type(None):
        return value is None
    return type(value) is hint
