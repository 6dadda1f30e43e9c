"""Pickles read without the classes that they name: a stand-in for each of them keeps what the pickle says."""

from __future__ import annotations

import collections
import io
import pickle
from collections.abc import Callable
from typing import Any

_PLAIN: dict[str, dict[str, Any]] = {
    "builtins": {
        kind.__name__: kind
        for kind in (
            bool,
            bytearray,
            bytes,
            complex,
            dict,
            float,
            frozenset,
            int,
            list,
            object,
            set,
            str,
            tuple,
        )
    },
    "collections": {
        "Counter": collections.Counter,
        "OrderedDict": collections.OrderedDict,
        "defaultdict": collections.defaultdict,
        "deque": collections.deque,
    },
}
"""Classes that are made as they are: they hold values and do nothing."""


class StandIn:
    """An object of a class that is not imported: it keeps what the pickle says of it."""

    full_name = ""
    """Module and qualified name."""

    def __new__(cls, *args: Any, **kwargs: Any) -> StandIn:  # noqa: D102 - as that of any class
        made = object.__new__(cls)
        made.args, made.kwargs, made.state, made.elements = args, kwargs, None, []
        return made

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.args: tuple[Any, ...]
        self.kwargs: dict[str, Any]
        self.state: Any
        self.elements: list[Any]

    def __setstate__(self, state: Any) -> None:
        self.state = state

    def __setitem__(self, key: Any, value: Any) -> None:
        self.elements.append((key, value))

    def append(self, value: Any) -> None:
        """For subclasses of lists."""
        self.elements.append(value)

    def extend(self, values: Any) -> None:
        """For subclasses of lists."""
        self.elements.extend(values)


class _Unpickler(pickle.Unpickler):
    """Makes stand-ins instead of importing."""

    def __init__(self, file: io.BytesIO) -> None:
        super().__init__(file)
        self._made: dict[str, type[StandIn]] = {}

    def find_class(self, module: str, name: str) -> Any:
        """Return what stands for a class or function."""
        if name in _PLAIN.get(module, {}):
            return _PLAIN[module][name]
        if module in ("copyreg", "copy_reg") and name in _CONSTRUCTORS:
            return _CONSTRUCTORS[name]
        full = f"{module}.{name}"
        if full not in self._made:
            self._made[full] = type(name.rpartition(".")[2], (StandIn,), {"full_name": full})
        return self._made[full]


def _reconstruct(cls: Any, base: type, state: Any) -> Any:
    made = cls.__new__(cls)
    if base is not object and isinstance(made, StandIn):
        made.args = (state,)
    return made


_CONSTRUCTORS: dict[str, Callable[..., Any]] = {
    "_reconstructor": _reconstruct,
    "__newobj__": lambda cls, *args: cls.__new__(cls, *args),
    "__newobj_ex__": lambda cls, args, kwargs: cls.__new__(cls, *args, **kwargs),
}
"""How ``copyreg`` makes objects."""


def load(content: bytes) -> Any:
    """Return what a pickle holds, with stand-ins for all that is not plain data; nothing is imported or run.

    Raises:
        pickle.UnpicklingError: it is no pickle; or whatever else ``pickle`` raises of a damaged one.
    """
    return _Unpickler(io.BytesIO(content)).load()
