"""What an options dataclass says about itself: fields, types, defaults and the text below each.

For the command line, which offers every option as a flag, and for ``merging methods NAME``.
"""

from __future__ import annotations

import ast
import contextlib
import dataclasses
import inspect
import itertools
import json
import textwrap
import types
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from merging.errors import OptionError


@dataclass(frozen=True)
class Field:
    """One option, as a reader needs it."""

    name: str
    hint: Any
    default: str | None
    """Text of the default value; None: the option must be given."""
    text: str
    """The docstring below the field, on one line."""

    @property
    def type_text(self) -> str:
        """The type in words: "float | none", "one of a, b"."""
        return type_text(self.hint)

    @property
    def takes_several(self) -> bool:
        """Whether it may be written as several words: a list, or values by task."""
        return any(_is_list(choice) or _is_mapping(choice) for choice in _choices(self.hint))


def fields(options_class: type) -> list[Field]:
    """Describe the fields of an options dataclass, in order."""
    hints = typing.get_type_hints(options_class)
    texts = _field_texts(options_class)
    return [
        Field(field.name, hints[field.name], _default(field), texts.get(field.name, ""))
        for field in dataclasses.fields(options_class)
    ]


def type_text(hint: Any) -> str:
    """A type in words."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return " | ".join(type_text(argument) for argument in arguments)
    if origin is typing.Literal:
        return "one of " + ", ".join(map(repr, arguments))
    if hint in (None, type(None)):
        return "none"
    if origin is tuple:
        return f"[{type_text(arguments[0])}, ...]"
    if isinstance(origin, type) and issubclass(origin, Mapping):
        return f"{{{type_text(arguments[0])}: {type_text(arguments[1])}}}"
    return "text" if hint is str else getattr(hint, "__name__", str(hint))


def from_words(words: str | Sequence[str], hint: Any, *, name: str, scheduled: bool = False) -> Any:
    """Read a value of a declared type from the command line.

    Numbers, ``true``, ``false`` and ``none`` are written plainly, lists and mappings as JSON, or in several
    words: ``a b`` for a list, ``a=0.3 b=0.5`` for a mapping.

    Args:
        words: one text, or several.
        hint: the declared type.
        name: starts the error message: the flag.
        scheduled: whether what takes a number also takes the JSON of :mod:`merging.schedules`.

    Raises:
        OptionError: the text is no value of that type.
    """
    given = [words] if isinstance(words, str) else list(words)
    shown = " ".join(given)
    for choice in _choices(hint):
        plain = not given[0].startswith(("{", "["))
        if _is_mapping(choice) and plain and all("=" in word for word in given):
            return _by_task(given, typing.get_args(choice)[1], name=name, scheduled=scheduled)
        if len(given) == 1:
            with contextlib.suppress(ValueError):
                return _read(given[0], choice)
        if _is_list(choice) and plain:
            with contextlib.suppress(ValueError):
                return [_read(word, typing.get_args(choice)[0]) for word in given]
    if scheduled and len(given) == 1 and given[0].startswith(("{", "[")) and _takes_number(hint):
        try:
            return _with_floats(json.loads(given[0]))
        except json.JSONDecodeError as error:
            raise OptionError(f"{name}: not JSON: {given[0]!r} ({error}).") from error
    raise OptionError(f"{name} must be {type_text(hint)}, got {shown!r}.")


def _choices(hint: Any) -> list[Any]:
    """The types of a union, in the order in which a text is tried.

    Any word makes a list, and any text is a str, so these come last.
    """
    union = typing.get_origin(hint) in (typing.Union, types.UnionType)
    return sorted(
        typing.get_args(hint) if union else (hint,), key=lambda choice: (choice is str, _is_list(choice))
    )


def _is_list(hint: Any) -> bool:
    return typing.get_origin(hint) is tuple


def _is_mapping(hint: Any) -> bool:
    origin = typing.get_origin(hint)
    return isinstance(origin, type) and issubclass(origin, Mapping)


def _takes_number(hint: Any) -> bool:
    return any(
        choice is float or (_is_mapping(choice) and _takes_number(typing.get_args(choice)[1]))
        for choice in _choices(hint)
    )


def _by_task(words: Sequence[str], hint: Any, *, name: str, scheduled: bool) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for word in words:
        task, _, text = word.partition("=")
        if task in found:
            raise OptionError(f"{name}: task {task!r} is given twice.")
        found[task] = from_words(text, hint, name=f"{name} {task}", scheduled=scheduled)
    return found


def _with_floats(value: Any) -> Any:
    """JSON whose whole numbers are floats: what takes a gradient takes floats."""
    if isinstance(value, dict):
        return {key: _with_floats(its) for key, its in value.items()}
    if isinstance(value, list):
        return [_with_floats(its) for its in value]
    return float(value) if type(value) is int else value


def _read(text: str, hint: Any) -> Any:
    """Read one type.

    Raises:
        ValueError: the text is nothing of that type.
    """
    if hint in (None, type(None)):
        return _choose(text, {"none": None})
    if hint is bool:
        return _choose(text, {"true": True, "false": False})
    if typing.get_origin(hint) is typing.Literal:
        return _choose(text, {str(value): value for value in typing.get_args(hint)})
    if hint in (int, float, str):
        return hint(text)
    value = json.loads(text)
    if type(value) is not (list if _is_list(hint) else dict):
        raise ValueError(text)
    return _with_floats(value) if float in typing.get_args(hint) else value


def _choose(text: str, values: Mapping[str, Any]) -> Any:
    if text not in values:
        raise ValueError(text)
    return values[text]


def _default(field: dataclasses.Field[Any]) -> str | None:
    if field.default is not dataclasses.MISSING:
        words = isinstance(field.default, bool | None)
        return str(field.default).lower() if words else str(field.default)
    if field.default_factory is not dataclasses.MISSING:
        return str(field.default_factory())
    return None


def _field_texts(options_class: type) -> dict[str, str]:
    """The string that stands below each field; Python does not keep it, so the source is read."""
    texts: dict[str, str] = {}
    for base in reversed(options_class.__mro__[:-1]):  # the last is object
        texts |= _own_field_texts(base)
    return texts


def _own_field_texts(options_class: type) -> dict[str, str]:
    """Those of the fields that one class adds to its bases."""
    body = typing.cast(
        ast.ClassDef, ast.parse(textwrap.dedent(inspect.getsource(options_class))).body[0]
    ).body
    texts = {}
    for statement, below in itertools.pairwise(body):
        if (
            isinstance(statement, ast.AnnAssign)
            and isinstance(statement.target, ast.Name)
            and isinstance(below, ast.Expr)
            and isinstance(below.value, ast.Constant)
            and isinstance(below.value.value, str)
        ):
            texts[statement.target.id] = " ".join(below.value.value.split())
    return texts
