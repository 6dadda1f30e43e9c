"""What an options dataclass says about itself: fields, types, defaults and the text below each.

For the command line, which offers every option as a flag, and for ``merging methods NAME``.
"""

from __future__ import annotations

import ast
import dataclasses
import inspect
import itertools
import json
import textwrap
import types
import typing
from collections.abc import Mapping
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


def from_text(text: str, hint: Any, *, name: str) -> Any:
    """Read a value of a declared type from the command line.

    Numbers, ``true``, ``false`` and ``none`` are written plainly, lists and mappings as JSON.

    Raises:
        OptionError: the text is no value of that type.
    """
    choices = typing.get_args(hint) if typing.get_origin(hint) in (typing.Union, types.UnionType) else (hint,)
    for choice in sorted(choices, key=lambda choice: choice is str):  # any text is a str, so that comes last
        try:
            return _read(text, choice)
        except ValueError:
            continue
    raise OptionError(f"{name} must be {type_text(hint)}, got {text!r}.")


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
    if isinstance(value, dict) and typing.get_args(hint)[1:] == (float,):
        return {key: float(item) if type(item) is int else item for key, item in value.items()}
    return value


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
