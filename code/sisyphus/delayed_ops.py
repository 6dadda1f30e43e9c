"""Expressions over values that do not exist yet.

``job.out_score + 1`` cannot be computed while the graph is built, so it becomes an object that remembers the
operation. ``get()`` computes it once the operands are there; jobs find the paths inside through its
attributes. The names of classes and attributes are part of job ids: they must not change.
"""

from __future__ import annotations

import types
from collections.abc import Iterable
from typing import Any

from sisyphus.errors import VariableNotSet
from sisyphus.hash import sis_hash_helper


def try_get(value: Any) -> Any:
    """Return what a delayed object stands for, and anything else as it is."""
    return value.get() if isinstance(value, DelayedBase) else value


def is_set(value: object) -> bool:
    """Whether ``value`` is there; what is not delayed always is."""
    return value.is_set() if isinstance(value, DelayedBase) else True


class DelayedBase:
    """Base of everything whose value may come later; recipes may derive from it and define ``get``."""

    def __init__(self, a: Any, b: Any = None) -> None:
        self.a = a
        self.b = b

    def get(self) -> Any:
        """Return the value.

        Raises:
            VariableNotSet: if it depends on a value that is not there yet.
        """
        raise NotImplementedError(f"{type(self).__name__} must define get()")

    def is_set(self) -> bool:
        """Whether everything that ``get`` needs is there."""
        return is_set(self.a) and is_set(self.b)

    def __str__(self) -> str:
        return str(self.get())

    def __repr__(self) -> str:
        try:
            return str(self.get())
        except (VariableNotSet, NotImplementedError):
            return f"<{type(self).__name__}, not set>"

    # Python would go through __getitem__ for ever otherwise, because every index gives an expression.
    __iter__ = None

    def __add__(self, other: Any) -> DelayedAdd:
        return DelayedAdd(self, other)

    def __radd__(self, other: Any) -> DelayedAdd:
        return DelayedAdd(other, self)

    def __sub__(self, other: Any) -> DelayedSub:
        return DelayedSub(self, other)

    def __rsub__(self, other: Any) -> DelayedSub:
        return DelayedSub(other, self)

    def __mul__(self, other: Any) -> DelayedMul:
        return DelayedMul(self, other)

    def __rmul__(self, other: Any) -> DelayedMul:
        return DelayedMul(other, self)

    def __truediv__(self, other: Any) -> DelayedTrueDiv:
        return DelayedTrueDiv(self, other)

    def __rtruediv__(self, other: Any) -> DelayedTrueDiv:
        return DelayedTrueDiv(other, self)

    def __floordiv__(self, other: Any) -> DelayedFloorDiv:
        return DelayedFloorDiv(self, other)

    def __rfloordiv__(self, other: Any) -> DelayedFloorDiv:
        return DelayedFloorDiv(other, self)

    def __mod__(self, other: Any) -> DelayedMod:
        return DelayedMod(self, other)

    def __pow__(self, other: Any, modulo: Any = None) -> DelayedPow | DelayedMod:
        power = DelayedPow(self, other)
        return power if modulo is None else DelayedMod(power, modulo)

    def __rpow__(self, other: Any) -> DelayedPow:
        return DelayedPow(other, self)

    def __round__(self, ndigits: Any = None) -> DelayedRound:
        return DelayedRound(self, ndigits)

    def __getitem__(self, key: Any) -> DelayedGetItem:
        return DelayedGetItem(self, key)

    def __call__(self, *args: Any, **kwargs: Any) -> DelayedFunctionV2:
        """Call the value, once it is there."""
        return DelayedFunctionV2(self, *args, **kwargs)

    def format(self, *args: Any, **kwargs: Any) -> DelayedFormat:
        """Fill the value, a format text; positional arguments may be delayed."""
        return DelayedFormat(self, *args, **kwargs)

    def rformat(self, template: Any, *args: Any, **kwargs: Any) -> DelayedFormat:
        """Fill ``template`` with the value, followed by ``args``."""
        return DelayedFormat(template, self, *args, **kwargs)

    def replace(self, *args: Any, **kwargs: Any) -> DelayedReplace:
        """Replace inside the value, as ``str.replace`` does."""
        return DelayedReplace(self, *args, **kwargs)

    def function(self, func: Any, *args: Any, **kwargs: Any) -> DelayedFunction:
        """Apply ``func`` to the value; only the value itself may be delayed."""
        return DelayedFunction(self, func, *args, **kwargs)

    def fallback(self, other: Any) -> DelayedFallback:
        """Use ``other`` as long as the value is not set."""
        return DelayedFallback(self, other)


class DelayedAdd(DelayedBase):
    """``a + b``."""

    def get(self) -> Any:
        """Return the sum."""
        return try_get(self.a) + try_get(self.b)


class DelayedSub(DelayedBase):
    """``a - b``."""

    def get(self) -> Any:
        """Return the difference."""
        return try_get(self.a) - try_get(self.b)


class DelayedMul(DelayedBase):
    """``a * b``."""

    def get(self) -> Any:
        """Return the product."""
        return try_get(self.a) * try_get(self.b)


class DelayedTrueDiv(DelayedBase):
    """``a / b``."""

    def get(self) -> Any:
        """Return the quotient."""
        return try_get(self.a) / try_get(self.b)


class DelayedFloorDiv(DelayedBase):
    """``a // b``."""

    def get(self) -> Any:
        """Return the rounded quotient."""
        return try_get(self.a) // try_get(self.b)


class DelayedMod(DelayedBase):
    """``a % b``."""

    def get(self) -> Any:
        """Return the remainder, or a filled text."""
        return try_get(self.a) % try_get(self.b)


class DelayedPow(DelayedBase):
    """``a ** b``."""

    def get(self) -> Any:
        """Return the power."""
        return try_get(self.a) ** try_get(self.b)


class DelayedRound(DelayedBase):
    """``round(a, b)``; to an integer if b is None."""

    def get(self) -> Any:
        """Return the rounded value."""
        return round(try_get(self.a), try_get(self.b))


class DelayedGetItem(DelayedBase):
    """``a[b]``."""

    def get(self) -> Any:
        """Return the item."""
        return try_get(self.a)[try_get(self.b)]


class DelayedFallback(DelayedBase):
    """The value of a if it is set, else that of b."""

    def get(self) -> Any:
        """Return the first value that is set."""
        return try_get(self.a) if is_set(self.a) else try_get(self.b)

    def is_set(self) -> bool:
        """Whether one of both is there."""
        return is_set(self.a) or is_set(self.b)


class Delayed(DelayedBase):
    """Makes an expression of a plain value; as an argument it is encoded as that value."""

    def __init__(self, a: Any) -> None:
        super().__init__(a)

    def get(self) -> Any:
        """Return the value."""
        return try_get(self.a)

    def _sis_hash(self) -> bytes:
        return sis_hash_helper(self.a)


class DelayedSlice(DelayedBase):
    """``iterable[index_start:index_end:step]``."""

    def __init__(self, iterable: Any, index_start: Any = 0, index_end: Any = -1, step: Any = 1) -> None:
        self.iterable = iterable
        self.index_start = index_start
        self.index_end = index_end
        self.step = step

    def get(self) -> Any:
        """Return the slice."""
        return try_get(self.iterable)[
            slice(try_get(self.index_start), try_get(self.index_end), try_get(self.step))
        ]

    def is_set(self) -> bool:
        """Whether iterable and limits are there."""
        return all(map(is_set, (self.iterable, self.index_start, self.index_end, self.step)))


class DelayedJoin(DelayedBase):
    """The elements of ``iterable`` as text, with ``separator`` between them."""

    def __init__(self, iterable: Iterable[Any] | DelayedBase, separator: Any) -> None:
        self.iterable = iterable
        self.separator = separator

    def get(self) -> str:
        """Return the joined text."""
        joined: str = try_get(self.separator).join(str(try_get(item)) for item in try_get(self.iterable))
        return joined

    def is_set(self) -> bool:
        """Whether all elements are there."""
        if not (is_set(self.iterable) and is_set(self.separator)):
            return False
        return isinstance(self.iterable, DelayedBase) or all(map(is_set, self.iterable))


class DelayedFunctionV2(DelayedBase):
    """``func(*args, **kwargs)``, each of them delayed or not."""

    def __init__(self, func: Any, *args: Any, **kwargs: Any) -> None:
        self.func = func
        self.args = args
        self.kwargs = kwargs

    def get(self) -> Any:
        """Return the result of the call."""
        args = [try_get(arg) for arg in self.args]
        kwargs = {name: try_get(value) for name, value in self.kwargs.items()}
        return try_get(self.func)(*args, **kwargs)

    def is_set(self) -> bool:
        """Whether function and arguments are there."""
        return all(map(is_set, (self.func, *self.args, *self.kwargs.values())))


class DelayedFunctionBase(DelayedBase):
    """Base of the operations on a text or value that take further arguments."""

    def __init__(self, string: Any, *args: Any, **kwargs: Any) -> None:
        self.string = string
        self.args = args
        self.kwargs = kwargs

    def is_set(self) -> bool:
        """Whether value and arguments are there."""
        return all(map(is_set, (self.string, *self.args, *self.kwargs.values())))


class DelayedFormat(DelayedFunctionBase):
    """``string.format(*args, **kwargs)``; positional arguments are resolved, keyword ones are not."""

    def get(self) -> str:
        """Return the filled text."""
        filled: str = try_get(self.string).format(*map(try_get, self.args), **self.kwargs)
        return filled


class DelayedReplace(DelayedFunctionBase):
    """``string.replace(*args, **kwargs)``."""

    def get(self) -> str:
        """Return the changed text."""
        changed: str = try_get(self.string).replace(*map(try_get, self.args), **self.kwargs)
        return changed


class DelayedFunction(DelayedFunctionBase):
    """``func(string, *args, **kwargs)``; only the first is resolved."""

    def __init__(self, string: Any, func: Any, *args: Any, **kwargs: Any) -> None:
        if isinstance(func, types.FunctionType) and func.__name__ == "<lambda>":
            raise AssertionError(
                f"a lambda has no name to identify it ({func.__code__.co_filename}:"
                f"{func.__code__.co_firstlineno}). Use a function defined at the top of a module."
            )
        super().__init__(string, *args, **kwargs)
        self.func = func

    def get(self) -> Any:
        """Return the result of the call."""
        return self.func(try_get(self.string), *self.args, **self.kwargs)
