"""Encodings of values that are rare in recipes; each is written down from the rules, not from a run."""

from __future__ import annotations

import collections
import dataclasses
import enum
import functools
import hashlib
import os
import types
import typing

import numpy as np
import pytest
from sisyphus import Path, tk
from sisyphus.hash import short_hash, sis_hash_helper

HERE = __name__


class Access(enum.Flag):
    READ = 1
    WRITE = 2


class Bits(enum.IntFlag):
    LOW = 1


class Share(float, enum.Enum):
    HALF = 0.5


@dataclasses.dataclass(slots=True)
class Slotted:
    a: int
    b: int = 2


@dataclasses.dataclass(slots=True, frozen=True)
class SlottedFrozen:
    """Python gives such classes a ``__getstate__`` of their own, which returns the list of values."""

    a: int
    b: int = 2


@dataclasses.dataclass(frozen=True)
class Derives:
    a: int
    given: dataclasses.InitVar[int] = 3
    shared: typing.ClassVar[int] = 4
    made: int = dataclasses.field(init=False)

    def __post_init__(self, given):
        object.__setattr__(self, "made", 2 * given)


Pair = collections.namedtuple("Pair", "a b")


class PairWithDict(Pair):
    pass


class OddInt(int):
    def __repr__(self):
        return "odd"


class ListOfOne(list):
    def __getnewargs__(self):
        return (1,)


class Caller:
    def __init__(self):
        self.value = 1

    def method(self, x):
        return x

    @classmethod
    def of_class(cls):
        return cls

    @staticmethod
    def alone():
        return None


class Meta(type):
    pass


class OfMeta(metaclass=Meta):
    pass


class SlotsByDict:
    __slots__: typing.ClassVar = {"a": "a documented slot"}

    def __init__(self):
        self.a = 1


class BothNewArgsAndNoState:
    def __getnewargs_ex__(self):
        return (1,), {"k": 2}

    def __getstate__(self):
        return None


class ShadowsNone:
    x = None

    def __init__(self):
        self.x = None


def _enum_state(cls, name, value):
    where = f"(EnumMeta, (tuple, (str, '{HERE}'), (str, '{cls}')))"
    return (
        f"(dict, (tuple, (str, '__objclass__'), {where}), (tuple, (str, '_name_'), (str, '{name}')), "
        f"(tuple, (str, '_value_'), {value}))"
    )


METHOD = (
    f"(method, (dict, (tuple, (str, '__func__'), (function, (tuple, (str, '{HERE}'), "
    "(str, 'Caller.method')))), (tuple, (str, '__self__'), (Caller, (dict, (tuple, (str, 'value'), "
    "(int, 1)))))))"
)


@pytest.mark.parametrize(
    ("value", "encoded"),
    [
        (Access.WRITE, f"(Access, {_enum_state('Access', 'WRITE', '(int, 2)')})"),
        (Bits.LOW, f"(Bits, (tuple, (tuple, (int, 1)), {_enum_state('Bits', 'LOW', '(int, 1)')}))"),
        (
            Share.HALF,
            f"(Share, (tuple, (tuple, (float, 0.5)), {_enum_state('Share', 'HALF', '(float, 0.5)')}))",
        ),
        (Slotted(1), "(Slotted, (dict, (tuple, (str, 'a'), (int, 1)), (tuple, (str, 'b'), (int, 2))))"),
        (SlottedFrozen(1), "(SlottedFrozen, (list, (int, 1), (int, 2)))"),
        (Derives(1), "(Derives, (dict, (tuple, (str, 'a'), (int, 1)), (tuple, (str, 'made'), (int, 6))))"),
        (PairWithDict(1, "b"), "(PairWithDict, (tuple, (tuple, (int, 1), (str, 'b')), (dict)))"),
        (OddInt(3), "(OddInt, (tuple, (tuple, (int, 3)), (dict)))"),
        (ListOfOne([7]), "(ListOfOne, (tuple, (tuple, (int, 1)), (dict)))"),
        (
            functools.partial(Caller().method, 3),
            f"(partial, (dict, (tuple, (str, 'args'), (tuple, (int, 3))), (tuple, (str, 'func'), {METHOD}), "
            "(tuple, (str, 'keywords'), (dict))))",
        ),
        (
            Caller.of_class,
            f"(method, (dict, (tuple, (str, '__func__'), (function, (tuple, (str, '{HERE}'), "
            f"(str, 'Caller.of_class')))), (tuple, (str, '__self__'), (type, (tuple, (str, '{HERE}'), "
            "(str, 'Caller'))))))",
        ),
        (Caller.alone, f"(function, (tuple, (str, '{HERE}'), (str, 'Caller.alone')))"),
        (OfMeta, f"(Meta, (tuple, (str, '{HERE}'), (str, 'OfMeta')))"),
        (OfMeta(), "(OfMeta, (dict))"),
        (os.PathLike, "(ABCMeta, (tuple, (str, 'os'), (str, 'PathLike')))"),
        (SlotsByDict(), "(SlotsByDict, (dict, (tuple, (str, 'a'), (int, 1))))"),
        (
            BothNewArgsAndNoState(),
            "(BothNewArgsAndNoState, (tuple, (tuple, (tuple, (int, 1)), (dict, (tuple, (str, 'k'), "
            "(int, 2)))), (NoneType)))",
        ),
        (ShadowsNone(), "(ShadowsNone, (dict, (tuple, (str, 'x'), (NoneType))))"),
        (
            [].append,
            "(builtin_function_or_method, (dict, (tuple, (str, '__name__'), "
            "(str, 'append')), (tuple, (str, '__self__'), (list))))",
        ),
        (
            (1).__add__,
            "(method-wrapper, (dict, (tuple, (str, '__name__'), (str, '__add__')), "
            "(tuple, (str, '__self__'), (int, 1))))",
        ),
        (np.complex128(1 + 2j), "(complex128, (tuple, (tuple, (float, 1.0), (float, 2.0)), (NoneType)))"),
        (np.str_("a"), "(str_, (tuple, (tuple, (str, 'a')), (NoneType)))"),
        (np.bytes_(b"x"), "(bytes_, x)"),
        (
            collections.UserDict({1: 2}),
            "(UserDict, (dict, (tuple, (str, 'data'), (dict, (tuple, (int, 1), (int, 2))))))",
        ),
        (
            {None, 1, 1.5, "a", (1,)},
            "(set, (NoneType), (float, 1.5), (int, 1), (str, 'a'), (tuple, (int, 1)))",
        ),
        (
            (Path("a") + "x") * 2,
            "(DelayedMul, (dict, (tuple, (str, 'a'), (DelayedAdd, (dict, (tuple, (str, 'a'), (Path, (tuple, "
            "(NoneType), (str, 'a')))), (tuple, (str, 'b'), (str, 'x'))))), (tuple, (str, 'b'), (int, 2))))",
        ),
        (tk.Variable("v", pickle=True, backup=1), "(Path, (tuple, (NoneType), (str, 'v')))"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_encoding(value, encoded):
    assert sis_hash_helper(value) == encoded.encode()


@pytest.mark.parametrize(
    ("value", "error"),
    [
        (types.MappingProxyType({1: 2}), AssertionError),
        ({1: 2}.keys(), AssertionError),
        (int | None, AssertionError),
        (np.int64(1), AssertionError),
        (np.bool_(True), AssertionError),
        (..., AssertionError),
        (tuple[int], TypeError),  # its __getnewargs__ is the unbound one of tuple
    ],
    ids=lambda value: type(value).__name__,
)
def test_values_without_readable_members(value, error):
    with pytest.raises(error):
        sis_hash_helper(value)


def test_the_length_rule_holds_at_every_level():
    def digest(encoded: bytes) -> bytes:
        return hashlib.sha256(encoded).digest()

    long = "x" * 4088
    encoded = digest(f"(str, '{long}')".encode())
    assert sis_hash_helper({long: 1}) == b"(dict, (tuple, " + encoded + b", (int, 1)))"
    others = [sis_hash_helper(text) for text in ("a", "b")]
    assert sis_hash_helper({long, "a", "b"}) == b"(set, " + b", ".join(sorted([encoded, *others])) + b")"
    path = digest(f"(tuple, (NoneType), (str, '{'p' * 4070}'))".encode())
    assert sis_hash_helper(Path("p" * 4070)) == b"(Path, " + path + b")"
    # n ASCII letters take n + 9 bytes, "(list, " and ")" 8 more
    assert len(sis_hash_helper(["x" * 4079])) == 4096
    assert sis_hash_helper(["x" * 4080]) == digest(f"(list, (str, '{'x' * 4080}'))".encode())


def test_version_zero_counts_and_inits_without_arguments(workspace):
    (workspace / "recipe").mkdir()
    (workspace / "recipe/__init__.py").touch()
    (workspace / "recipe/some.py").write_text(
        "import functools\n"
        "from sisyphus import Job\n"
        "def twice(init):\n"
        "    @functools.wraps(init)\n"
        "    def wrapped(self, *a, **k):\n"
        "        init(self, *a, **k)\n"
        "    return wrapped\n"
        "class Versioned(Job):\n"
        "    __sis_version__ = 0\n"
        "    def __init__(self, x, /, y=1): pass\n"
        "class Plain(Job):\n"
        "    def tasks(self): return iter(())\n"
        "class Wrapped(Job):\n"
        "    @twice\n"
        "    def __init__(self, x, y=1): pass\n"
    )
    from recipe.some import Plain, Versioned, Wrapped

    assert Versioned(3).job_id() == f"some/Versioned.{short_hash(({'x': 3, 'y': 1}, 0))}"
    # object's own __init__(self, /, *args, **kwargs)
    assert Plain().job_id() == f"some/Plain.{short_hash({'args': (), 'kwargs': {}})}"
    assert Wrapped(3, y=1).job_id() == f"some/Wrapped.{short_hash({'a': (3,), 'k': {'y': 1}})}"
    assert Wrapped(3) is not Wrapped(3, 1)


def test_jobs_as_keys_are_hashed_but_are_no_inputs(workspace):
    (workspace / "recipe").mkdir()
    (workspace / "recipe/__init__.py").touch()
    (workspace / "recipe/some.py").write_text(
        "from sisyphus import Job\n"
        "class Some(Job):\n"
        "    def __init__(self, x):\n"
        "        self.x, self.out = x, self.output_path('out')\n"
    )
    from recipe.some import Some

    job = Some(1)
    by_job = Some({job: 2})
    assert sis_hash_helper({job: 2}) == f"(dict, (tuple, {job.job_id()}, (int, 2)))".encode()
    assert by_job._sis_inputs == set()
    assert Some({2: job.out})._sis_inputs == {job.out}
    assert Some(collections.OrderedDict(a=job.out))._sis_inputs == {job.out}
