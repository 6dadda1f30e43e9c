"""Boxes of several jobs: they never form a circle, whatever the groups are."""

from __future__ import annotations

import random
from dataclasses import replace

from sisyphus import Job, Task
from sisyphus.block import Block
from sisyphus.graph import SISGraph
from sisyphus.outputs.targets import OutputPath
from sisyphus.view import layout
from sisyphus.view.facts import look


class Step(Job):
    def __init__(self, name, *inputs):
        self.out = self.output_path("out")

    def tasks(self):
        yield Task("run")

    def run(self):
        pass


def facts_of(*jobs):
    graph = SISGraph()
    for number, job in enumerate(jobs):
        graph.add_target(OutputPath(f"out{number}", job.out))
    return look(graph, None)


def test_a_block_that_needs_and_feeds_another_one_is_drawn_twice(workplace):
    first, other = Block("first"), Block("other")
    inner = first.sub_block("inner")
    begin, same = Step("begin"), Step("same")
    middle = Step("middle", begin.out, same.out)
    end, end2 = Step("end", middle.out), Step("end 2", middle.out)
    for block, jobs in ((first, [begin, same]), (other, [middle]), (inner, [end, end2])):
        for job in jobs:
            block.add_job(job)
    facts = facts_of(end, end2)
    assert {job.block for job in facts.jobs} == {"first", "other", "first / inner"}
    by_block = [replace(job, block=job.block.removesuffix(" / inner")) for job in facts.jobs]
    found = layout.boxes_of_groups(replace(facts, jobs=by_block), lambda job: job.block)
    assert [box.label for box in layout.arrange(found)] == [
        ("first", "2 jobs"),
        ("Step", middle._sis_id().rpartition(".")[2]),
        ("first", "2 jobs"),
    ]
    opened = layout.boxes_of_groups(facts, lambda job: job.block, [found[0].key])
    assert [len(box.states) for box in opened] == [1, 1, 1, 1]
    assert {begin._sis_id(), same._sis_id()} <= {box.key for box in opened}


def test_random_blocks_in_random_graphs(workplace):
    random_number = random.Random(0)
    jobs: list[Step] = []
    for number in range(80):
        inputs = [job.out for job in random_number.sample(jobs, min(len(jobs), 3))]
        jobs.append(Step(number, *inputs))
        if random_number.random() < 0.9:
            Block(f"block {random_number.randrange(4)}").add_job(jobs[-1])
    facts = facts_of(*jobs)
    closed = layout.boxes_of_groups(facts, lambda job: job.block)
    assert len(closed) < len(jobs)
    for open_groups in ((), [box.key for box in closed[::2]]):
        found = layout.boxes_of_groups(facts, lambda job: job.block, open_groups)
        seen: set[str] = set()
        for box in found:
            assert set(box.inputs) <= seen
            seen.add(box.key)
        assert sum(sum(box.states.values()) for box in found) == len(jobs)
        assert len(layout.arrange(found)) == len(found)


def test_blocks_open_from_the_outside(workplace):
    config = Block("config")
    outer = config.sub_block("outer")
    inner = [outer.sub_block(name) for name in ("a", "b")]
    alone = Step("alone")
    config.add_job(alone)
    jobs = [Step(f"{block.name} {number}") for block in inner for number in range(2)]
    for block, job in zip((inner[0], inner[0], inner[1], inner[1]), jobs, strict=True):
        block.add_job(job)
    direct = Step("direct")
    outer.add_job(direct)
    facts = facts_of(alone, direct, *jobs)

    def groups(*opened):
        closed = layout.closed_blocks(facts, opened)
        return sorted({closed(job) for job in facts.jobs})

    assert groups() == ["config", "config / outer"]  # the block around all is passed by
    assert groups("config") == ["", "config / outer"]
    assert groups("config / outer") == ["", "config", "config / outer / a", "config / outer / b"]
    assert groups("config / outer", "config / outer / b") == ["", "config", "config / outer / a"]
    only = replace(facts, jobs=[job for job in facts.jobs if job.block == "config / outer / a"])
    closed = layout.closed_blocks(only, ())
    assert {closed(job) for job in only.jobs} == {"config / outer / a"}
    nothing = replace(facts, jobs=[])
    assert layout.boxes_of_groups(nothing, layout.closed_blocks(nothing, ())) == []
