"""All jobs by block; jobs of no block by class. Only what is unfolded is made."""

from __future__ import annotations

from collections import Counter

from rich.text import Text
from textual.message import Message
from textual.widgets import Tree
from textual.widgets.tree import TreeNode

from sisyphus.states import State
from sisyphus.terminal.overview import ORDER, showable
from sisyphus.ui.job_table import STYLES, bar
from sisyphus.view.facts import BLOCK_SEPARATOR, JobFacts

_MOST = 500
"""Jobs of one block that are listed; the table lists all."""

Place = tuple[str, ...]
"""Names of blocks from the outermost on; the graph as a whole is empty."""


class BlockTree(Tree[Place | str]):
    """Blocks with how many of their jobs are in which state; below them their jobs."""

    class Chosen(Message):
        """The cursor is on another job, or on none."""

        def __init__(self, job: JobFacts | None) -> None:
            super().__init__()
            self.job = job

    def __init__(self, id: str) -> None:
        super().__init__("all jobs", data=(), id=id)
        self.root.expand()
        self._made: dict[Place | str, TreeNode[Place | str]] = {(): self.root}
        self._jobs: dict[Place, list[JobFacts]] = {}
        self._by_id: dict[str, JobFacts] = {}
        self._shown: dict[Place | str, str] = {}

    @property
    def chosen(self) -> JobFacts | None:
        """The job below the cursor."""
        node = self.cursor_node
        return self._by_id.get(node.data) if node is not None and isinstance(node.data, str) else None

    def show(self, jobs: list[JobFacts]) -> None:
        """Bring the tree up to date with all jobs of a graph."""
        counts: dict[Place, Counter[str]] = {(): Counter()}
        self._jobs = {}
        for job in jobs:
            place = _place(job)
            self._jobs.setdefault(place, []).append(job)
            for depth in range(len(place) + 1):
                counts.setdefault(place[:depth], Counter())[job.state] += 1
        self._by_id = {job.id: job for job in jobs}
        for place in sorted(counts):
            if place and place not in self._made:
                self._made[place] = self._made[place[:-1]].add(place[-1], data=place)
                if counts[place].total() == len(jobs):
                    self._made[place].expand()  # around all others: folded, there would be nothing to see
            self._label(place, _block_label(place, counts[place]))
        for key in [key for key in self._made if isinstance(key, str) and key not in self._by_id]:
            self._made.pop(key).remove()  # nothing needs the job any more
        for place in self._jobs:
            if self._made[place].is_expanded:
                self._list_jobs(place)

    def on_tree_node_expanded(self, event: Tree.NodeExpanded[Place | str]) -> None:
        """List the jobs of a block when it is unfolded."""
        if isinstance(event.node.data, tuple):
            self._list_jobs(event.node.data)

    def on_tree_node_highlighted(self) -> None:
        """Tell which job the cursor is on."""
        self.post_message(self.Chosen(self.chosen))

    def _list_jobs(self, place: Place) -> None:
        jobs = self._jobs.get(place, [])
        for job in jobs[:_MOST]:
            if job.id not in self._made:
                self._made[job.id] = self._made[place].add_leaf(job.id, data=job.id)
            self._label(job.id, _job_label(job))
        rest = len(jobs) - _MOST
        if rest > 0 and (*place, "...") not in self._made:
            more = f"and {rest:,} more: the table lists all of them"
            self._made[(*place, "...")] = self._made[place].add_leaf(more)

    def _label(self, key: Place | str, label: Text) -> None:
        if self._shown.get(key) != label.markup:
            self._shown[key] = label.markup
            self._made[key].set_label(label)


def _place(job: JobFacts) -> Place:
    return tuple(job.block.split(BLOCK_SEPARATOR)) if job.block else (job.class_name,)


def _block_label(place: Place, counts: Counter[str]) -> Text:
    total = counts.total()
    label = Text(f"{place[-1] if place else 'all jobs'} ")
    label.append(f"{bar(counts[State.FINISHED.value] / total if total else 0)} ", STYLES["finished"])
    label.append(f"{counts[State.FINISHED.value]}/{total}")
    for state in reversed(ORDER):
        if counts[state] and state != State.FINISHED:
            label.append(f"  {state} {counts[state]}", STYLES.get(state, ""))
    return label


def _job_label(job: JobFacts) -> Text:
    told = "" if job.progress is None else f" {job.progress:.0%}"
    label = Text(showable(job.name))
    return label.append(f"  {job.state}{told}", STYLES.get(job.state, ""))
