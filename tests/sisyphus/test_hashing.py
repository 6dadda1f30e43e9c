"""Encodings and ids with literal values: whoever changes one of these loses everybody's finished work."""

from __future__ import annotations

import collections
import dataclasses
import datetime
import enum
import fractions
import functools
import hashlib
import pathlib
import re
import threading
import uuid
from typing import NamedTuple

import numpy as np
import pytest
from sisyphus import Job, Path, tk
from sisyphus.delayed_ops import Delayed, DelayedBase
from sisyphus.hash import get_members, get_object_state, int_hash, md5, short_hash, sis_hash_helper

LONG = "0123456789" * 500


class MyDict(dict):
    pass


class MyList(list):
    pass


class MyBytes(bytes):
    pass


class Attrs:
    shared = "an attribute of the class does not count"

    def __init__(self, a, b):
        self.a = a
        self._b = b

    @property
    def computed(self):
        raise AssertionError("properties are not evaluated")

    def method(self):
        return self.a


class Empty:
    pass


class Slots:
    __slots__ = ("unset", "x")

    def __init__(self, x):
        self.x = x


class PrivateSlot(Slots):
    __slots__ = ("__secret", "__weakref__")

    def __init__(self):
        super().__init__(1)
        self.__secret = 2


class OneLetterSlots:
    __slots__ = "x"

    def __init__(self):
        self.x = 1


class DictSlot:
    __slots__ = ("__dict__",)

    def __init__(self):
        self.a = 1


class Color(enum.Enum):
    RED = 1


class Level(enum.IntEnum):
    HIGH = 2


class Point(NamedTuple):
    x: int
    y: int


@dataclasses.dataclass
class Data:
    a: int
    hidden: int = dataclasses.field(default=3, compare=False)


class OwnHash:
    def _sis_hash(self):
        return b"x" * 5000  # neither wrapped nor shortened


class State:
    def __init__(self, state):
        self.state = state

    def __getstate__(self):
        return self.state


class SisState(State):
    def __sis_state__(self):
        return "first"


class NewArgs:
    def __getnewargs__(self):
        return (1,)


class Named:
    """Has members only through a __dir__ and a __getattr__ of its own."""

    __slots__ = ()

    def __dir__(self):
        return ["made", "missing"]

    def __getattr__(self, name):
        if name == "made":
            return 5
        raise AttributeError(name)


def function():
    pass


def make_function():
    def inner():
        pass

    return inner


@functools.wraps(function)
def wrapped():
    pass


HERE = __name__


@pytest.mark.parametrize(
    ("value", "encoded"),
    [
        (None, "(NoneType)"),
        (-7, "(int, -7)"),
        (True, "(bool, True)"),
        (0.1, "(float, 0.1)"),
        (float("nan"), "(float, nan)"),
        (-0.0, "(float, -0.0)"),
        (1.5 - 2j, "(complex, (1.5-2j))"),
        ("a", "(str, 'a')"),
        ("it's", '(str, "it\'s")'),
        (b"raw), (", "(bytes, raw), ()"),
        (MyBytes(b"ab"), "(MyBytes, ab)"),
        ([], "(list)"),
        ((), "(tuple)"),
        ([1, "a", None], "(list, (int, 1), (str, 'a'), (NoneType))"),
        ({10, 9, "2"}, "(set, (int, 10), (int, 9), (str, '2'))"),
        (frozenset("ba"), "(frozenset, (str, 'a'), (str, 'b'))"),
        ({}, "(dict)"),
        ({"b": 1, "a": [2]}, "(dict, (tuple, (str, 'a'), (list, (int, 2))), (tuple, (str, 'b'), (int, 1)))"),
        (collections.OrderedDict(z=1), "(OrderedDict, (tuple, (str, 'z'), (int, 1)))"),
        (collections.Counter("a"), "(Counter, (tuple, (str, 'a'), (int, 1)))"),
        (MyDict(a=1), "(MyDict, (tuple, (str, 'a'), (int, 1)))"),
        (function, f"(function, (tuple, (str, '{HERE}'), (str, 'function')))"),
        (wrapped, f"(function, (tuple, (str, '{HERE}'), (str, 'function')))"),
        (make_function(), f"(function, (tuple, (str, '{HERE}'), (str, 'make_function.<locals>.inner')))"),
        (Attrs.method, f"(function, (tuple, (str, '{HERE}'), (str, 'Attrs.method')))"),
        (int, "(type, (tuple, (str, 'builtins'), (str, 'int')))"),
        (Color, f"(EnumMeta, (tuple, (str, '{HERE}'), (str, 'Color')))"),
        (Job, "(JobSingleton, (tuple, (str, 'sisyphus.job'), (str, 'Job')))"),
        (str.lower, "(method_descriptor, (str, 'str.lower'))"),
        (object.__init__, "(wrapper_descriptor, (str, 'object.__init__'))"),
        (re, "(module, (str, 're'))"),
        (pathlib.Path("/x/../y"), "(PosixPath, (str, '/x/../y'))"),
        (pathlib.PurePosixPath("a/b"), "(PurePosixPath, (str, 'a/b'))"),
        (Empty(), "(Empty, (dict))"),
        (Attrs(1, "b"), "(Attrs, (dict, (tuple, (str, '_b'), (str, 'b')), (tuple, (str, 'a'), (int, 1))))"),
        (Slots(1), "(Slots, (dict, (tuple, (str, 'x'), (int, 1))))"),
        (OneLetterSlots(), "(OneLetterSlots, (dict, (tuple, (str, 'x'), (int, 1))))"),
        (
            DictSlot(),
            "(DictSlot, (dict, (tuple, (str, '__dict__'), (dict, (tuple, (str, 'a'), (int, 1)))), "
            "(tuple, (str, 'a'), (int, 1))))",
        ),
        (
            PrivateSlot(),
            "(PrivateSlot, (dict, (tuple, (str, '_PrivateSlot__secret'), (int, 2)), "
            "(tuple, (str, '__weakref__'), (NoneType)), (tuple, (str, 'x'), (int, 1))))",
        ),
        (Named(), "(Named, (dict, (tuple, (str, 'made'), (int, 5))))"),
        (Data(1), "(Data, (dict, (tuple, (str, 'a'), (int, 1)), (tuple, (str, 'hidden'), (int, 3))))"),
        (Point(3, 5), "(Point, (tuple, (tuple, (int, 3), (int, 5)), (dict)))"),
        (NewArgs(), "(NewArgs, (tuple, (tuple, (int, 1)), (dict)))"),
        (State(None), "(State, (NoneType))"),
        (State([1]), "(State, (list, (int, 1)))"),
        (SisState(1), "(SisState, (str, 'first'))"),
        (ValueError("x", 1), "(ValueError, (dict))"),
        (np.float64(0.5), "(float64, (tuple, (tuple, (float, 0.5)), (NoneType)))"),
        (
            Color.RED,
            f"(Color, (dict, (tuple, (str, '__objclass__'), (EnumMeta, (tuple, (str, '{HERE}'), "
            "(str, 'Color')))), (tuple, (str, '_name_'), (str, 'RED')), "
            "(tuple, (str, '_value_'), (int, 1))))",
        ),
        (
            Level.HIGH,
            "(Level, (tuple, (tuple, (int, 2)), (dict, (tuple, (str, '__objclass__'), (EnumMeta, (tuple, "
            f"(str, '{HERE}'), (str, 'Level')))), (tuple, (str, '_name_'), (str, 'HIGH')), "
            "(tuple, (str, '_value_'), (int, 2)))))",
        ),
        (
            slice(1, None, -1),
            "(slice, (dict, (tuple, (str, 'start'), (int, 1)), (tuple, (str, 'step'), (int, -1)), "
            "(tuple, (str, 'stop'), (NoneType))))",
        ),
        (
            datetime.timedelta(1, 2, 3),
            "(timedelta, (dict, (tuple, (str, 'days'), (int, 1)), (tuple, (str, 'microseconds'), (int, 3)), "
            "(tuple, (str, 'seconds'), (int, 2))))",
        ),
        (
            functools.partial(int, 42),
            "(partial, (dict, (tuple, (str, 'args'), (tuple, (int, 42))), (tuple, (str, 'func'), "
            "(type, (tuple, (str, 'builtins'), (str, 'int')))), (tuple, (str, 'keywords'), (dict))))",
        ),
        (
            len,
            "(builtin_function_or_method, (dict, (tuple, (str, '__name__'), (str, 'len')), "
            "(tuple, (str, '__self__'), (module, (str, 'builtins')))))",
        ),
        (
            Attrs(1, 2).method,
            f"(method, (dict, (tuple, (str, '__func__'), (function, (tuple, (str, '{HERE}'), "
            "(str, 'Attrs.method')))), (tuple, (str, '__self__'), (Attrs, (dict, (tuple, (str, '_b'), "
            "(int, 2)), (tuple, (str, 'a'), (int, 1)))))))",
        ),
        (Path("in/file.txt", tags={"t"}, cached=True), "(Path, (tuple, (NoneType), (str, 'in/file.txt')))"),
        (tk.Variable("in/var", backup=3), "(Path, (tuple, (NoneType), (str, 'in/var')))"),
        (Path("x", hash_overwrite=("who", "M")), "(Path, (tuple, (str, 'who'), (str, 'M')))"),
        (Path("x", creator="some/creator"), "(Path, (tuple, (str, 'some/creator'), (str, 'x')))"),
        (Delayed([3]), "(list, (int, 3))"),
        (
            DelayedBase(1, 2),
            "(DelayedBase, (dict, (tuple, (str, 'a'), (int, 1)), (tuple, (str, 'b'), (int, 2))))",
        ),
    ],
    ids=lambda value: type(value).__name__,
)
def test_encoding(value, encoded):
    assert sis_hash_helper(value) == encoded.encode()


@pytest.mark.parametrize(
    ("value", "digest"),
    [
        (None, "ofRJhp5ks8fN"),
        (True, "3v0PcFEHDBlG"),
        (0, "AOVVQlboB7S7"),
        (1, "GrNNX0NaadXt"),
        (1.0, "y1TAUxoHQIhj"),
        (10**40, "wTJTYmlln2Qy"),
        ("größe ☃ 日本", "TlnxKY1fRSVN"),
        ("x" * 4087, "7vfmHN1ABdpf"),
        ("x" * 4088, "ZevTitkSR8R1"),
        (bytes(range(256)), "t7V2kvIj0LA0"),
        ({"x": [{"y": ({"z"}, [None, {"w": {}}])}]}, "i5h5ntHRyGFL"),
        ({1: "int", "1": "str", None: 0, (1, 2): "t", 1.5: b"f", 2: "two"}, "QX2BEGga1dCK"),
        ([LONG, 1], "kNsusyoMcGik"),
        ({LONG: 1}, "86DrWtFVMoII"),
        ({LONG, "short"}, "BRabgNxCgrjS"),
        ([[LONG] * 3, [LONG] * 200], "7OGGSKFCirsO"),
        (list(range(2000)), "xqhDFk62M0lm"),
        (range(1, 10, 3), "5diKXh6qd2QH"),
        (functools.partial(int, base=7), "dkK5aTZKg1Po"),
        (uuid.UUID(int=5), "h66sxA0RiN48"),
        (fractions.Fraction(1, 3), "0Vq00VYQ6lg8"),
        (DelayedBase(1, 2), "jAs5Zk1sSUzz"),
    ],
    ids=lambda value: value if isinstance(value, str) else type(value).__name__,
)
def test_short_hash(value, digest):
    assert short_hash(value) == digest


def test_encodings_above_4096_bytes_are_replaced_by_their_digest():
    kept, replaced = "x" * 4087, "x" * 4088  # an ASCII text of n letters takes n + 9 bytes
    assert len(sis_hash_helper(kept)) == 4096
    assert sis_hash_helper(replaced) == hashlib.sha256(f"(str, '{replaced}')".encode()).digest()
    assert sis_hash_helper([replaced]) == b"(list, " + sis_hash_helper(replaced) + b")"


def test_an_own_hash_stands_as_it_is():
    assert sis_hash_helper(OwnHash()) == b"x" * 5000
    assert sis_hash_helper([OwnHash()]) == hashlib.sha256(b"(list, " + b"x" * 5000 + b")").digest()


def test_hash_texts_with_other_lengths_and_letters():
    assert short_hash("abc", length=20) == "TmLmRrLma9wVy1nTLtxX"
    assert short_hash("abc", length=16, chars="01") == "1000011111011100"
    assert short_hash("abc", 4, ["aa", "bb", "cc"]) == "ccaabbbb"
    assert int_hash(0) == 114650918459415759706256880036510519467328493868107559348040559211513186844766
    assert md5(1) == "c4ca4238a0b923820dcc509a6f75849b"


def test_values_that_must_differ():
    values = [
        1,
        1.0,
        True,
        "1",
        b"1",
        [1],
        (1,),
        {1},
        frozenset({1}),
        {1: 1},
        collections.OrderedDict({1: 1}),
    ]
    assert len({short_hash(value) for value in values}) == len(values)


@pytest.mark.parametrize(
    ("value", "error", "says"),
    [
        (lambda: 0, AssertionError, r"a lambda has no name .*test_hashing.py:\d+"),
        (functools.partial(lambda: 0), AssertionError, "a lambda"),
        (MyList(), TypeError, "MyList is a subclass of list and does not say how it is built"),
        (type("MySet", (set,), {})(), TypeError, "MySet is a subclass of set"),
        (object(), AssertionError, "an object of type builtins.object has no members"),
        (datetime.date(2020, 1, 2), AssertionError, "datetime.date"),
        (bytearray(b"x"), AssertionError, "bytearray"),
        (collections.deque(), AssertionError, "deque"),
        (iter([1]), AssertionError, "list_iterator"),
        (np.float32(1), AssertionError, "float32"),
        (np.zeros(2), AssertionError, "ndarray"),
        (threading.Lock(), AssertionError, "lock"),
        (type("InMain", (), {"__module__": "__main__"}), AssertionError, "InMain is defined in __main__"),
    ],
    ids=lambda value: getattr(value, "__name__", type(value).__name__),
)
def test_values_that_cannot_be_hashed(value, error, says):
    with pytest.raises(error, match=says) as raised:
        sis_hash_helper(value)
    assert type(raised.value) is error


def test_the_python_version_does_not_show_in_enums():
    assert "_sort_order_" not in get_object_state(Color.RED)
    assert "_sort_order_" in get_members(Color.RED)  # Python 3.11 and newer


def test_states_of_plain_values():
    assert get_object_state(None) is None
    assert get_object_state([1]) == [1]
    assert get_object_state(MyBytes(b"x")) == ((b"x",), {})
    with pytest.raises(TypeError, match="MyDict is a subclass of dict"):
        get_object_state(MyDict())
