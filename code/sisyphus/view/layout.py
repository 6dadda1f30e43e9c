"""Where the boxes of a drawn graph stand: inputs above what is made of them, few crossing lines.

Layers by longest path, then barycentres, as in Sugiyama, Tagawa and Toda (1981). Graphviz would do it
better, but no wheel brings it: its Python packages need the program from the system.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cache
from itertools import takewhile

from sisyphus.view.facts import BLOCK_SEPARATOR, GraphFacts, JobFacts

_SWEEPS = 8
_FARTHEST = 3.0
"""Widths of a box between two of a layer with few of them."""


@dataclass(frozen=True)
class Box:
    """A job, or several of one class in the same layer."""

    key: str
    label: tuple[str, ...]
    """Lines of text."""
    states: Mapping[str, int]
    """Number of jobs by state."""
    inputs: tuple[str, ...]
    """Keys of the boxes above."""
    layer: int = 0
    position: float = 0.0
    """Centre, from 0 on, in widths of a box."""
    room: float = 1.0
    """Distance to its neighbours in the layer, in widths of a box."""


def boxes_of_jobs(facts: GraphFacts) -> list[Box]:
    """Return one box for each job."""
    return [Box(job.id, _label(job), {job.state: 1}, tuple(job.inputs)) for job in facts.jobs]


def boxes_of_classes(facts: GraphFacts) -> list[Box]:
    """Return one box for the jobs of a class that stand equally deep in the graph."""
    depth = _layers({job.id: job.inputs for job in facts.jobs})
    key = {job.id: f"{depth[job.id]} {job.class_name}" for job in facts.jobs}
    groups: dict[str, list[JobFacts]] = {}
    for job in facts.jobs:
        groups.setdefault(key[job.id], []).append(job)
    boxes = []
    for name, jobs in groups.items():
        states: dict[str, int] = {}
        for job in jobs:
            states[job.state] = states.get(job.state, 0) + 1
        inputs = dict.fromkeys(key[creator] for job in jobs for creator in job.inputs)
        label = _label(jobs[0]) if len(jobs) == 1 else (jobs[0].class_name, f"{len(jobs)} jobs")
        boxes.append(Box(name, label, states, tuple(inputs)))
    return boxes


def boxes_of_groups(
    facts: GraphFacts, group_of: Callable[[JobFacts], str], open_groups: Collection[str] = ()
) -> list[Box]:
    """Return a box for each group of jobs; a group that others both need and feed has one for each stage.

    Args:
        facts: the graph.
        group_of: name of the group of a job; empty: none, it has a box of its own.
        open_groups: keys of boxes that are taken apart into their jobs.
    """
    stage: dict[str, int] = {}
    name = {job.id: group_of(job) for job in facts.jobs}
    for job in facts.jobs:  # stages rise along each line between two groups, so boxes cannot form a circle
        stage[job.id] = max(
            (stage[i] + (not name[i] or name[i] != name[job.id]) for i in job.inputs), default=0
        )
    key = {job.id: f"{stage[job.id]} {name[job.id]}" if name[job.id] else job.id for job in facts.jobs}
    size = Counter(key.values())
    key = {id: id if group in open_groups or size[group] == 1 else group for id, group in key.items()}
    groups: dict[str, list[JobFacts]] = {}
    for job in sorted(facts.jobs, key=lambda job: stage[job.id]):
        groups.setdefault(key[job.id], []).append(job)
    boxes = []
    for group, jobs in groups.items():
        creators = dict.fromkeys(key[creator] for job in jobs for creator in job.inputs)
        label = _label(jobs[0]) if group == jobs[0].id else (name[jobs[0].id], f"{len(jobs)} jobs")
        states = dict(Counter(job.state for job in jobs))
        boxes.append(Box(group, label, states, tuple(other for other in creators if other != group)))
    return boxes


def closed_blocks(facts: GraphFacts, open_blocks: Collection[str]) -> Callable[[JobFacts], str]:
    """Return what says in which box a job is when blocks are drawn: the outermost one that is not open.

    A block around all others, such as that of a config, is closed for its own jobs only: else there would be
    one box to begin with.

    Args:
        facts: the graph.
        open_blocks: full names of blocks that were opened.

    Returns:
        A function from a job to the full name of a block; empty if all blocks around it are open.
    """
    paths = sorted(job.block.split(BLOCK_SEPARATOR) for job in facts.jobs)
    pairs = zip(paths[0], paths[-1], strict=False) if paths else ()
    num_around_all = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))

    @cache
    def closed(block: str) -> str:
        names = block.split(BLOCK_SEPARATOR)
        for depth in range(1, len(names) + 1):
            name = BLOCK_SEPARATOR.join(names[:depth])
            passed = depth <= num_around_all and depth < len(names)
            if name not in open_blocks and not passed:
                return name
        return ""

    return lambda job: closed(job.block)


def _label(job: JobFacts) -> tuple[str, ...]:
    name = job.vis_name or (job.aliases[0] if job.aliases else job.id.rpartition(".")[2])
    return job.class_name, name


def arrange(boxes: Iterable[Box]) -> list[Box]:
    """Return the boxes with layers and positions.

    Args:
        boxes: those that others take as inputs first.
    """
    boxes = list(boxes)
    layer = _layers({box.key: box.inputs for box in boxes})
    above: dict[str, list[str]] = {box.key: list(box.inputs) for box in boxes}
    below: dict[str, list[str]] = {box.key: [] for box in boxes}
    for box in boxes:
        for creator in box.inputs:
            below[creator].append(box.key)
    rows: list[list[str]] = [[] for _ in range(max(layer.values(), default=-1) + 1)]
    for box in boxes:
        rows[layer[box.key]].append(box.key)
    label = {box.key: tuple(map(_natural, box.label)) for box in boxes}
    for row in rows:
        row.sort(key=label.__getitem__)
    position = {key: float(index) for row in rows for index, key in enumerate(row)}
    for sweep in range(_SWEEPS):
        neighbours = below if sweep % 2 else above
        for row in reversed(rows) if sweep % 2 else rows:
            _sort_row(row, neighbours, position)
    widest = max(map(len, rows), default=0)
    room = {}
    for row in rows:
        apart = min(widest / max(1, len(row)), _FARTHEST)
        for index, key in enumerate(row):
            room[key] = apart
            position[key] = (widest - 1) / 2 + apart * (index - (len(row) - 1) / 2)
    return [
        replace(box, layer=layer[box.key], position=position[box.key], room=room[box.key]) for box in boxes
    ]


def _natural(text: str) -> list[str | int]:
    """Sorts ``a 9`` before ``a 10``."""
    return [int(part) if part.isdecimal() else part for part in re.split(r"(\d+)", text)]


def _layers(inputs: Mapping[str, Iterable[str]]) -> dict[str, int]:
    """Number of steps from the sources, along the longest way."""
    layer: dict[str, int] = {}
    for key, creators in inputs.items():
        layer[key] = 1 + max((layer[creator] for creator in creators), default=-1)
    return layer


def _sort_row(row: list[str], neighbours: Mapping[str, list[str]], position: dict[str, float]) -> None:
    """Put each box of a row below the middle of its neighbours, as far as there is room."""

    def middle(key: str) -> float:
        places = [position[other] for other in neighbours[key]]
        return sum(places) / len(places) if places else position[key]

    row.sort(key=middle)
    for index, key in enumerate(row):
        position[key] = float(index)
