"""Blocks: names for groups of jobs."""

from __future__ import annotations

import pytest
from sisyphus import Job, block, tk

pytestmark = pytest.mark.usefixtures("workspace")


class Step(Job):
    def __init__(self, name):
        self.out = self.output_path("out")


@tk.block()
def decorated(name):
    return Step(name)


@tk.block("named", cache=True)
def cached(name, *, calls):
    calls.append(name)
    return Step(name)


def test_jobs_stand_in_the_active_block():
    with tk.block("outer") as outer:
        a = Step("a")
        with tk.block("inner") as inner:
            b = Step("b")
        c = Step("c")
    d = Step("d")
    assert outer.children == [a, inner, c]
    assert inner.children == [b]
    assert inner.parents == {outer}
    assert a._sis_blocks == {outer}
    assert d._sis_blocks == set()
    assert block.all_root_blocks == [outer]


def test_a_job_made_twice_stands_in_both_blocks():
    with tk.block("one") as one:
        a = Step("a")
    with tk.block("two") as two:
        assert Step("a") is a
        Step("a")
    assert a._sis_blocks == {one, two}
    assert two.children == [a]


def test_children_without_those_further_down():
    with tk.block("outer") as outer:
        a, b = Step("a"), Step("b")
        with tk.block("inner") as inner, tk.block("innermost"):
            Step("a")
    assert outer.filtered_children() == [b, inner]
    assert a in outer.children


def test_sub_blocks_may_be_entered_again():
    with tk.block("outer") as outer:
        side = tk.sub_block("side")
    with side:
        a = Step("a")
    with side as entered:
        b = Step("b")
    assert entered is side
    assert side.children == [a, b]
    assert outer.children == [side]
    assert side.sub_block("below").parents == {side}


def test_decorated_functions():
    with tk.block("outer") as outer:
        job = decorated("a")
    (inner,) = outer.children
    assert inner.name == "decorated"
    assert inner.children == [job]
    assert decorated.__name__ == "decorated"


def test_decorated_functions_with_a_cache():
    calls = []
    with tk.block("outer") as outer:
        assert cached("a", calls=[]) is cached("a", calls=[])
        cached("b", calls=calls)
    assert [child.name for child in outer.children] == ["named", "named"]
    assert calls == ["b"]


def test_root_blocks_are_returned_to():
    one = tk.set_root_block("one")
    a = Step("a")
    tk.set_root_block("two")
    assert tk.set_root_block("one") is one
    b = Step("b")
    assert one.children == [a, b]
    assert [root.name for root in block.all_root_blocks] == ["one", "two"]
    assert block.active_blocks == {one}


def test_the_block_is_left_after_an_error():
    with pytest.raises(ValueError, match="inside"), tk.block("outer"):
        raise ValueError("inside")
    assert block.active_blocks == set()


def test_unknown_names():
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        block.nothing  # noqa: B018
