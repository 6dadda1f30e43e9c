"""Expressions over values that do not exist yet: values, readiness, text."""

from __future__ import annotations

import copy
import pickle

import pytest
from sisyphus import Path, tk
from sisyphus.delayed_ops import (
    Delayed,
    DelayedBase,
    DelayedFallback,
    DelayedFormat,
    DelayedFunction,
    DelayedJoin,
    DelayedMod,
    DelayedPow,
    DelayedRound,
    DelayedSlice,
    try_get,
)
from sisyphus.errors import VariableNotSet

pytestmark = pytest.mark.usefixtures("workspace")

SIX = Delayed(6)


def double(x, plus=0):
    return 2 * x + plus


@pytest.mark.parametrize(
    ("expression", "value"),
    [
        (SIX + 1, 7),
        (1 + SIX, 7),
        (SIX - 1.5, 4.5),
        (8 - SIX, 2),
        (SIX * SIX, 36),
        (3 * SIX, 18),
        (SIX / 4, 1.5),
        (3 / SIX, 0.5),
        (SIX // 4, 1),
        (13 // SIX, 2),
        (SIX % 4, 2),
        (SIX**2, 36),
        (2**SIX, 64),
        (pow(SIX, 2, 7), 1),
        (round(SIX / 4), 2),
        (round(Delayed(2.345), 2), 2.35),
        (Delayed("%s!") % SIX, "6!"),
        (Delayed({"k": 1})["k"], 1),
        (Delayed([10, 11])[Delayed(1)], 11),
        (Delayed("abcdef")[:-3], "abc"),
        (Delayed(double)(SIX, plus=Delayed(1)), 13),
        (Delayed("{}-{x}").format(SIX, x=1), "6-1"),
        (SIX.rformat("{} of {}", Delayed(10)), "6 of 10"),
        (Delayed("aXa").replace("X", Delayed("b")), "aba"),
        (SIX.function(double, plus=1), 13),
        (SIX.fallback(0), 6),
        (DelayedSlice(Delayed("abcdef"), 1, Delayed(5), 2), "bd"),
        (DelayedSlice("abc"), "ab"),
        (DelayedJoin(["a", SIX, 1], ","), "a,6,1"),
        (DelayedJoin(Delayed(["a", "b"]), Delayed("+")), "a+b"),
        (((SIX + 1) * 2).rformat("n={}").replace("n", "m") + "!", "m=14!"),
    ],
    ids=lambda value: f"{type(value).__name__}" if isinstance(value, DelayedBase) else repr(value),
)
def test_value(expression, value):
    assert expression.is_set()
    assert expression.get() == value
    assert str(expression) == repr(expression) == str(value)


@pytest.mark.parametrize(
    "make",
    [
        lambda unset: unset + 1,
        lambda unset: 1 + unset,
        lambda unset: unset["a"],
        lambda unset: Delayed({})[unset],
        lambda unset: unset(1),
        lambda unset: SIX(unset),
        lambda unset: SIX(k=unset),
        lambda unset: unset.rformat("{}"),
        lambda unset: DelayedFormat("{}", unset),
        lambda unset: unset.replace("a", "b"),
        lambda unset: unset.function(double),
        lambda unset: DelayedJoin([unset], ","),
        lambda unset: DelayedJoin(unset, ","),
        lambda unset: DelayedSlice("abc", unset),
        lambda unset: Delayed(unset),
        lambda unset: DelayedFallback(unset, unset),
    ],
)
def test_an_expression_of_an_unset_value_is_not_set(make):
    expression = make(tk.Variable("not/there"))
    assert not expression.is_set()
    with pytest.raises(VariableNotSet, match="not/there is not set"):
        expression.get()
    assert repr(expression) == f"<{type(expression).__name__}, not set>"


def test_fallback_takes_over_while_the_value_is_not_set(workspace):
    variable = tk.Variable("value")
    expression = variable.fallback(3) + 1
    assert expression.is_set()
    assert expression.get() == 4
    variable.set(5)
    assert expression.get() == 6


def test_attributes_are_part_of_the_format():
    assert vars(SIX + 1) == {"a": SIX, "b": 1}
    assert vars(1 + SIX) == {"a": 1, "b": SIX}
    assert vars(round(SIX)) == {"a": SIX, "b": None}
    assert vars(SIX(1, k=2)) == {"func": SIX, "args": (1,), "kwargs": {"k": 2}}
    assert vars(SIX.rformat("{}", 1)) == {"string": "{}", "args": (SIX, 1), "kwargs": {}}
    assert vars(SIX.function(double, 1)) == {"string": SIX, "func": double, "args": (1,), "kwargs": {}}
    assert vars(DelayedJoin([1], ",")) == {"iterable": [1], "separator": ","}
    assert vars(DelayedSlice("a")) == {"iterable": "a", "index_start": 0, "index_end": -1, "step": 1}
    power = pow(SIX, 2, 7)
    assert isinstance(power, DelayedMod)
    assert isinstance(power.a, DelayedPow)
    assert isinstance(round(SIX), DelayedRound)


def test_lambdas_are_refused():
    with pytest.raises(
        AssertionError, match=r"a lambda has no name to identify it \(.*test_delayed_ops.py:\d+\)"
    ):
        DelayedFunction(SIX, lambda x: x)


@pytest.mark.parametrize("endless", [SIX, Path("a"), SIX + 1])
def test_iterating_ends_at_once(endless):
    with pytest.raises(TypeError, match="not iterable"):
        list(endless)
    with pytest.raises(TypeError):
        "x" in endless  # noqa: B015


def test_expressions_can_be_copied_and_pickled():
    expression = (SIX + 1).rformat("{}")
    assert copy.deepcopy(expression).get() == "7"
    assert pickle.loads(pickle.dumps(expression)).get() == "7"


def test_recipes_may_derive_from_the_base():
    class Half(DelayedBase):
        def get(self):
            return try_get(self.a) / 2

    assert Half(SIX).get() == 3
    assert (Half(SIX) + 1).get() == 4
    with pytest.raises(NotImplementedError, match="DelayedBase must define get"):
        DelayedBase(1).get()
