"""From a class and its arguments to a job id, with ids as upstream gives them."""

from __future__ import annotations

import copy
import enum
import functools
import logging
from typing import ClassVar

import pytest
from sisyphus import Job, Path, Task, gs
from sisyphus.job_identity import parse_arguments

pytestmark = pytest.mark.usefixtures("workspace")


class Kind(enum.Enum):
    X = 1


Kind.__module__ = "vec.job_ids"


class Base(Job):
    __module__ = "vec.job_ids"  # the ids below were recorded for this name

    def tasks(self):
        yield Task("run")

    def run(self):
        pass


class NoArgs(Base):
    __module__ = "vec.job_ids"

    def __init__(self):
        pass


class Args(Base):
    __module__ = "vec.job_ids"

    def __init__(self, a, b=2, c=None):
        self.a = a
        self.out = self.output_path("o")


class Star(Base):
    __module__ = "vec.job_ids"

    def __init__(self, first, *args, key=None, **kwargs):
        pass


class KeywordOnly(Base):
    __module__ = "vec.job_ids"

    def __init__(self, *, x=1, y):
        pass


class Exclude(Base):
    __module__ = "vec.job_ids"
    __sis_hash_exclude__: ClassVar = {"new": None, "mode": "fast"}

    def __init__(self, a, new=None, mode="fast"):
        pass


class Overwrite(Base):
    __module__ = "vec.job_ids"
    __sis_hash_overwrite__: ClassVar = [("kind", "new", "old"), ("kind", "older", "old"), ("n", 2, [2])]

    def __init__(self, kind, n=1):
        pass


class Version1(Base):
    __module__ = "vec.job_ids"
    __sis_version__ = 1

    def __init__(self, a):
        pass


class VersionText(Base):
    __module__ = "vec.job_ids"
    __sis_version__ = "v-2"

    def __init__(self, a):
        pass


class OwnHash(Base):
    __module__ = "vec.job_ids"

    def __init__(self, a, threads=1):
        self.a = a

    @classmethod
    def hash(cls, parsed_args):
        del parsed_args["threads"]
        return super().hash(parsed_args)


class TextHash(Base):
    __module__ = "vec.job_ids"

    def __init__(self, name):
        pass

    @classmethod
    def hash(cls, parsed_args):
        return parsed_args["name"]


class Mutates(Base):
    __module__ = "vec.job_ids"

    def __init__(self, items):
        items.append("mutated by the job")
        self.items = items


class Outer:
    class Inner(Base):
        __module__ = "vec.job_ids"

        def __init__(self, a):
            pass


class Flat(Job):
    __module__ = "recipe.plain_pkg.flat"

    def __init__(self, *paths):
        self.out = self.output_path("flat")


@pytest.mark.parametrize(
    ("make", "job_id"),
    [
        (lambda: NoArgs(), "vec/job_ids/NoArgs.n7Yd9EbtVi13"),
        (lambda: Args(1), "vec/job_ids/Args.VFsqFOE6Opfk"),
        (lambda: Args(c=None, b=2, a=1), "vec/job_ids/Args.VFsqFOE6Opfk"),
        (lambda: Args(1, b=3), "vec/job_ids/Args.y0GjOQjCAf1l"),
        (lambda: Args(Kind.X), "vec/job_ids/Args.suSwujynzgIT"),
        (lambda: Args(Kind), "vec/job_ids/Args.YqkMTMnmTlXm"),
        (lambda: Args(NoArgs), "vec/job_ids/Args.Jgc4JlLIdyu6"),
        (lambda: Args({3, 1, 2}, {"b", "a"}), "vec/job_ids/Args.0PupzrYPjsJ8"),
        (lambda: Args([f"line {i}" for i in range(600)]), "vec/job_ids/Args.ScgHKW6kp3Fd"),
        (lambda: Args(Args(1).out, Path("p")), "vec/job_ids/Args.fh0EFMp7yUdn"),
        (lambda: Args("tagged", sis_tags={"t1", "t2"}), "vec/job_ids/Args.9eQF3zWWDXkT"),
        (lambda: Star(1, 2, 3, key="k", z=1, y=2), "vec/job_ids/Star.iPgm7QmYAoJg"),
        (lambda: Star(1), "vec/job_ids/Star.cDQTWEYvTaIq"),
        (lambda: KeywordOnly(y=2), "vec/job_ids/KeywordOnly.l4LSYoDazvAu"),
        (lambda: Exclude(1, None, "fast"), "vec/job_ids/Exclude.SCOVuig6yvRq"),
        (lambda: Exclude(1, mode="slow"), "vec/job_ids/Exclude.N5thUmU9VHU2"),
        (lambda: Overwrite("new"), "vec/job_ids/Overwrite.LBrHaxT3amzk"),
        (lambda: Overwrite("older"), "vec/job_ids/Overwrite.LBrHaxT3amzk"),
        (lambda: Overwrite("old", 2), "vec/job_ids/Overwrite.ZjFTcyHYOmWp"),
        (lambda: Version1(1), "vec/job_ids/Version1.roovkHw7PXpm"),
        (lambda: VersionText(1), "vec/job_ids/VersionText.GSwlNQn7ZRNs"),
        (lambda: OwnHash("a", 8), "vec/job_ids/OwnHash.gfBtfdXOpLjy"),
        (lambda: TextHash("group-1/n.v2"), "vec/job_ids/TextHash.group-1/n.v2"),
        (lambda: Mutates(["x"]), "vec/job_ids/Mutates.syZusAkSsQKN"),
        (lambda: Outer.Inner(1), "vec/job_ids/Inner.SCOVuig6yvRq"),
        (lambda: Flat(), "plain_pkg/flat/Flat.Q6IU9CS4QvUF"),
        (lambda: Flat(Flat().out), "plain_pkg/flat/Flat.0G6Z6hpZDDIZ"),
    ],
)
def test_job_id(make, job_id):
    assert make().job_id() == job_id


def test_the_same_arguments_give_the_same_object():
    assert Args(1) is Args(1, 2, None) is Args(a=1)
    assert Args(1) is not Args(1.0)
    assert OwnHash("a", 1) is OwnHash("a", 2)
    job = Args([1])
    assert copy.deepcopy(job) is job


def test_a_class_imported_under_two_names_has_one_id():
    twin = type("Flat", (Job,), {"__module__": "plain_pkg.flat", "__init__": Flat.__init__})
    assert twin().job_id() == Flat().job_id()


def test_arguments_belong_to_the_job():
    given = ["x"]
    job = Mutates(given)
    assert given == ["x"]
    assert job.items == ["x", "mutated by the job"]
    assert Mutates(["x"]) is job


def test_a_hash_that_deletes_from_its_argument_leaves_the_kept_arguments_alone():
    assert sorted(OwnHash("a", 8)._sis_kwargs) == ["a", "threads"]


def test_version_zero_counts():
    cls = type("Zero", (NoArgs,), {"__sis_version__": 0})
    none = type("Zero", (NoArgs,), {})
    assert cls().job_id() != none().job_id()


def test_excluded_values_are_compared_with_equality():
    cls = type("Flag", (Exclude,), {"__sis_hash_exclude__": {"new": 0}})
    assert cls(1, new=False).job_id() == cls(1, new=0.0).job_id() == cls(1, new=0).job_id()


def test_a_class_without_init_takes_no_arguments():
    assert parse_arguments(Base, (), {}) == {"args": (), "kwargs": {}}


def test_wrappers_are_not_looked_through():
    def wrap(init):
        @functools.wraps(init)
        def wrapper(self, *a, **k):
            init(self, *a, **k)

        return wrapper

    cls = type("Wrapped", (NoArgs,), {"__init__": wrap(Args.__init__)})
    assert cls(1, b=3)._sis_kwargs == {"a": (1,), "k": {"b": 3}}


def test_another_name_for_self_is_allowed_with_a_warning(caplog):
    def init(this, a):
        this.a = a

    job = type("SelfNamed", (NoArgs,), {"__init__": init, "__module__": "vec.job_ids"})(1)
    assert job.job_id() == "vec/job_ids/SelfNamed.SCOVuig6yvRq"
    assert "is called 'this' instead of 'self'" in caplog.text


@pytest.mark.parametrize(
    ("make", "error", "says"),
    [
        (lambda: Args(), TypeError, "missing 1 required positional argument: 'a'"),
        (lambda: Args(1, d=3), TypeError, "unexpected keyword argument 'd'"),
        (lambda: Args(1, a=3), TypeError, "multiple values for argument 'a'"),
        (lambda: Args(1, 2, 3, 4), TypeError, "takes .* positional arguments but 5 were given"),
        (lambda: Star(1, first=2), TypeError, "multiple values for argument 'first'"),
        (lambda: KeywordOnly(), TypeError, "missing 1 required keyword-only argument: 'y'"),
        (lambda: Star(), TypeError, "missing 1 required positional argument: 'first'"),
        (
            lambda: TextHash("not allowed!"),
            AssertionError,
            r"TextHash.hash returned 'not allowed!'. Allowed is",
        ),
        (lambda: TextHash(12), AssertionError, "TextHash.hash returned 12"),
        (lambda: Args(1, sis_tags={"with space"}), AssertionError, "Args: tag 'with space' is not allowed"),
        (lambda: Args(1, sis_tags="text"), AssertionError, "must be a collection of texts"),
        (
            lambda: Args(1, c={"deep": [lambda: 0]}),
            AssertionError,
            "Args: argument 'c' of type builtins.dict cannot be hashed: a lambda has no name",
        ),
        (
            lambda: Args(iter("x")),
            AssertionError,
            "Args: argument 'a' of type builtins.str_(ascii_)?iterator cannot be hashed",
        ),
        (
            lambda: Args(type("MyList", (list,), {})()),
            TypeError,
            r"argument 'a' of type .*MyList cannot be hashed: MyList is a subclass of list",
        ),
        (lambda: Args(logging), TypeError, "Args: an argument cannot be copied"),
    ],
)
def test_arguments_that_cannot_be(make, error, says):
    with pytest.raises(error, match=says) as raised:
        make()
    assert type(raised.value) is error


def test_a_value_that_contains_itself_is_named():
    endless = []
    endless.append(endless)
    with pytest.raises(RecursionError, match=r"Args: argument 'a' of type builtins.list contains itself"):
        Args(endless)


def test_wrong_arguments_are_logged(caplog):
    with pytest.raises(TypeError):
        Args(1, d=3)
    assert "Wrong arguments for vec.job_ids.Args: (1,) {'d': 3}" in caplog.text


def test_a_failing_init_leaves_no_job_behind():
    def init(self, a):
        raise ValueError("not today")

    cls = type("Fails", (NoArgs,), {"__init__": init})
    for _ in range(2):
        with pytest.raises(ValueError, match="not today"):
            cls(1)


def test_the_hash_function_is_a_setting(monkeypatch):
    monkeypatch.setattr(gs, "SIS_HASH", lambda value: "fixed")
    assert NoArgs().job_id() == "vec/job_ids/NoArgs.fixed"
