"""Arguments to bytes to identity.

Every value has one encoding::

    "(" TYPE {", " PART} ")"

where TYPE is the qualified name of its class and the parts are the encodings of what it is made of. Encodings
longer than ``MAX_ENCODED_BYTES`` are replaced by their SHA-256 digest, at every level. Nothing here may ever
change: ids of finished work depend on each byte (``tests/sisyphus/test_hashing.py`` holds literal digests).
"""

from __future__ import annotations

import enum
import hashlib
import sys
import types
from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache
from typing import Any

MAX_ENCODED_BYTES = 4096
"""Longer encodings are replaced by their digest; one of exactly this length is kept."""

_SCALARS: frozenset[type] = frozenset({int, float, bool, str, complex})
_PLAIN_TYPES: tuple[type, ...] = (int, float, bool, str, complex, list, tuple, set, frozenset, dict)
_UNBOUND_BUILTIN = (types.MethodDescriptorType, types.WrapperDescriptorType)
_BOUND_BUILTIN = (types.MethodWrapperType, types.BuiltinMethodType)
_DEFAULT_CHARS = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_ABSENT = object()
_SHORT_TEXT = 200
"""Texts up to this length are remembered; with every letter escaped they are far from the limit above."""


def md5(obj: object) -> str:
    """Return the hexadecimal MD5 digest of ``str(obj)``."""
    return hashlib.md5(str(obj).encode(), usedforsecurity=False).hexdigest()


def int_hash(obj: object) -> int:
    """Return the SHA-256 digest of the encoding of ``obj`` as a big-endian integer."""
    return int.from_bytes(hashlib.sha256(sis_hash_helper(obj)).digest(), "big")


def short_hash(obj: object, length: int = 12, chars: Sequence[str] = _DEFAULT_CHARS) -> str:
    """Return ``length`` pieces of ``chars`` that stand for ``obj``, least significant first."""
    base = len(chars)
    number = int_hash(obj) % base**length  # the rest would not be seen
    pieces = []
    for _ in range(length):
        number, digit = divmod(number, base)
        pieces.append(chars[digit])
    return "".join(pieces)


def sis_hash_helper(obj: Any) -> bytes:
    """Return the encoding of ``obj``.

    Raises:
        AssertionError: for lambdas, for functions and classes of ``__main__`` (their names do not identify
            them), and for objects whose members cannot be read.
        TypeError: for subclasses of list, set and frozenset, which do not say how they are built.
    """
    cls = type(obj)
    if cls is str and len(obj) <= _SHORT_TEXT:
        return _encoded_short_text(obj)
    if cls in _SCALARS:
        return _join(cls, (repr(obj).encode("utf-8"),))
    if isinstance(obj, bytes):
        return _join(cls, (obj,))
    if obj is None:
        return b"(NoneType)"
    if cls is list or cls is tuple:
        return _join(cls, map(sis_hash_helper, obj))
    if cls is set or cls is frozenset:
        return _join(cls, sorted(map(sis_hash_helper, obj)))
    if isinstance(obj, dict):
        return _join(cls, sorted([_encoded_pair(key, value) for key, value in obj.items()]))
    if isinstance(obj, types.FunctionType):
        _check_function(obj)
        return _join(cls, (sis_hash_helper(_place(obj)),))
    if isinstance(obj, type):
        _check_importable(obj)
        return _join(cls, (sis_hash_helper(_place(obj)),))
    own = getattr(obj, "_sis_hash", None)
    if own is not None:
        encoded: bytes = own()
        return encoded
    return _join(cls, (sis_hash_helper(get_object_state(obj)),))


@lru_cache(maxsize=1 << 14)
def _encoded_short_text(text: str) -> bytes:
    """A text; names of arguments and inputs come again and again."""
    return f"(str, {text!r})".encode()


def _encoded_pair(key: Any, value: Any) -> bytes:
    """The tuple of both."""
    encoded = b"(tuple, %b, %b)" % (sis_hash_helper(key), sis_hash_helper(value))
    return encoded if len(encoded) <= MAX_ENCODED_BYTES else hashlib.sha256(encoded).digest()


def _join(cls: type, parts: Iterable[bytes]) -> bytes:
    name = "EnumMeta" if cls is enum.EnumMeta else cls.__qualname__
    encoded = b"(" + b", ".join((name.encode("utf-8"), *parts)) + b")"
    if len(encoded) > MAX_ENCODED_BYTES:
        return hashlib.sha256(encoded).digest()
    return encoded


def _place(obj: Any) -> tuple[str, str]:
    """Where a function or class is defined."""
    return obj.__module__, obj.__qualname__


def _check_function(function: types.FunctionType) -> None:
    if function.__name__ == "<lambda>":
        code = function.__code__
        raise AssertionError(
            f"a lambda has no name to identify it ({code.co_filename}:{code.co_firstlineno}). "
            "Use a function defined at the top of a module."
        )
    _check_importable(function)


def _check_importable(obj: Any) -> None:
    if obj.__module__ == "__main__":
        raise AssertionError(
            f"{obj.__qualname__} is defined in __main__, so its name does not identify it. "
            "Move it into a module that can be imported."
        )


def get_object_state(obj: Any) -> Any:
    """Return what identifies ``obj`` beside its class, as a plain value.

    Raises:
        AssertionError: if the object has no readable members.
        TypeError: for subclasses of plain containers that do not say how they are built.
    """
    if obj is None or _is_plain(obj):
        return obj
    if isinstance(obj, _UNBOUND_BUILTIN):
        return obj.__qualname__
    if isinstance(obj, types.ModuleType):
        return obj.__name__
    if isinstance(obj, (types.FunctionType, type)):
        return _place(obj)
    if _is_pathlib(obj):
        return str(obj)
    args = _new_args(obj)
    state = _state(obj, required=args is _ABSENT)
    if isinstance(obj, enum.Enum) and isinstance(state, dict):
        # Python 3.11 added this member; ids must not depend on the Python version
        state = {key: value for key, value in state.items() if key != "_sort_order_"}
    return state if args is _ABSENT else (args, state)


def _is_plain(obj: Any) -> bool:
    """Whether ``obj`` is its own state; raises TypeError where that cannot be known."""
    for plain in _PLAIN_TYPES:
        if isinstance(obj, plain):
            if type(obj) is plain:
                return True
            if hasattr(obj, "__getnewargs_ex__") or hasattr(obj, "__getnewargs__"):
                return False
            raise TypeError(
                f"{type(obj).__qualname__} is a subclass of {plain.__name__} and does not say how it is "
                f"built. Pass a plain {plain.__name__}, or define __getnewargs__."
            )
    return False


def _is_pathlib(obj: object) -> bool:
    pathlib = sys.modules.get("pathlib")  # not imported: then nothing can be one of its paths
    return pathlib is not None and isinstance(obj, pathlib.PurePath)


def _new_args(obj: Any) -> Any:
    if hasattr(obj, "__getnewargs_ex__"):
        return obj.__getnewargs_ex__()
    if hasattr(obj, "__getnewargs__"):
        return obj.__getnewargs__()
    return _ABSENT


def _state(obj: Any, *, required: bool) -> Any:
    if hasattr(obj, "__sis_state__"):
        return obj.__sis_state__()
    if hasattr(obj, "__getstate__") and not _has_default_getstate(obj):
        return obj.__getstate__()
    members = get_members(obj)
    if members or hasattr(obj, "__dict__") or hasattr(obj, "__slots__"):
        return members
    if required:
        raise AssertionError(
            f"an object of type {type(obj).__module__}.{type(obj).__qualname__} has no members that could be "
            f"read to identify it: {obj!r}. Pass plain values instead, or give its class a __sis_state__ "
            "method."
        )
    return None


def _has_default_getstate(obj: Any) -> bool:
    """Whether ``__getstate__`` is the one that every object has since Python 3.11."""
    default: Callable[..., Any] | None = getattr(object, "__getstate__", None)
    return default is not None and obj.__class__.__getstate__ is default


def get_members(obj: Any) -> dict[Any, Any]:
    """Return the data members of ``obj``: attributes, slots and native fields, but nothing of its class."""
    if isinstance(obj, _BOUND_BUILTIN):
        return {"__self__": obj.__self__, "__name__": obj.__name__}
    members = dict(obj.__dict__) if hasattr(obj, "__dict__") else {}
    for name in getattr(obj, "__slots__", ()):
        value = getattr(obj, name, _ABSENT)
        if value is not _ABSENT:
            members[name] = value
    for name in dir(obj):
        if name in members or (name.startswith("__") and name not in ("__self__", "__func__")):
            continue
        of_class = _class_attribute(type(obj), name)
        if hasattr(of_class, "__get__") and not isinstance(of_class, types.MemberDescriptorType):
            continue
        value = getattr(obj, name, _ABSENT)
        if value is not _ABSENT and value is not of_class:
            members[name] = value
    return members


def _class_attribute(cls: type, name: str) -> Any:
    for base in cls.__mro__:
        if name in base.__dict__:
            return base.__dict__[name]
    return _ABSENT
