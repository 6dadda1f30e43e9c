"""What is new, reused and orphaned between two graphs, and which changes are the causes."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from sisyphus.explaining.described import Node
from sisyphus.explaining.differences import Difference, own_differences
from sisyphus.explaining.saved_jobs import SavedJob
from sisyphus.explaining.snapshot import JobSnapshot, Snapshot

_MOST_COMPARED = 50
"""Jobs that are looked at to find the one that a new one was."""


@dataclass(frozen=True)
class Cause:
    """A job whose own arguments, or whose class, are new; not one that is new by its inputs alone."""

    job_id: str
    before: str
    """Id of the job that stood there before, or that is most like it; empty if there is none of its class."""
    replaces: bool
    """Whether the one before is gone; else this is one more like it."""
    changes: tuple[Difference, ...]
    followers: tuple[str, ...]
    """New jobs that depend on it, directly or not."""


@dataclass(frozen=True)
class GraphDiff:
    """Ids, in the order of the graphs: dependencies first."""

    new: list[str] = field(default_factory=list)
    reused: list[str] = field(default_factory=list)
    orphaned: list[str] = field(default_factory=list)
    causes: list[Cause] = field(default_factory=list)
    replaced: Mapping[str, str] = field(default_factory=dict)
    """The orphaned job that a new one stands in place of, by its id."""


def compare(old: Snapshot, new: Snapshot) -> GraphDiff:
    """Compare two graphs."""
    added = [job_id for job_id in new.jobs if job_id not in old.jobs]
    orphaned = [job_id for job_id in old.jobs if job_id not in new.jobs]
    partners = _Partners(old, orphaned)
    causes = []
    for job_id in added:  # dependencies first, so that those of a job have their partners already
        cause = partners.explain(new.jobs[job_id])
        if cause is not None:
            causes.append(cause)
    followers = _followers(new, [cause.job_id for cause in causes], set(added))
    return GraphDiff(
        added,
        [job_id for job_id in new.jobs if job_id in old.jobs],
        orphaned,
        [replace(cause, followers=tuple(followers[cause.job_id])) for cause in causes],
        partners.replaced,
    )


class _Partners:
    """Which job of the old graph a new one was."""

    def __init__(self, old: Snapshot, orphaned: Sequence[str]) -> None:
        self.replaced: dict[str, str] = {}
        """The job that a new one stands in place of, by its id."""
        self._like: dict[str, str] = {}
        """That, or for a job more the one that it was compared with."""
        self._orphaned = _Index(old.jobs[job_id] for job_id in orphaned)
        self._all = _Index(old.jobs.values())

    def explain(self, job: JobSnapshot) -> Cause | None:
        """Find the partner of a new job; None if nothing but its inputs is new."""
        job_id = job.saved.job_id
        arguments = _texts(job.saved, self.replaced)
        replaced = self._orphaned.equal(job.saved, arguments) or self._orphaned.closest(job, arguments)
        if replaced is None:
            before = self._all.closest(job, _texts(job.saved, self._like))
        else:
            before = replaced
            self.replaced[job_id] = before.saved.job_id
            self._orphaned.remove(before)
        if before is None:
            return Cause(job_id, "", False, (), ())
        changes = tuple(own_differences(before.saved, job.saved, self._like))
        self._like[job_id] = before.saved.job_id
        return Cause(job_id, before.saved.job_id, replaced is not None, changes, ()) if changes else None


class _Index:
    """Jobs by class, arguments and names, so that the one most like another is found among few."""

    def __init__(self, jobs: Iterable[JobSnapshot]) -> None:
        self._arguments: dict[str, dict[str, str]] = {}
        self._equal: dict[object, JobSnapshot] = {}
        self._with_value: dict[tuple[str, ...], dict[str, JobSnapshot]] = {}
        """Jobs by id, by class alone, by class and name, and by class, argument and value."""
        for job in jobs:
            saved = job.saved
            arguments = _texts(saved, {})
            self._arguments[saved.job_id] = arguments
            self._equal[_whole(saved, arguments)] = job
            for key in self._keys(job, arguments):
                self._with_value.setdefault(key, {})[saved.job_id] = job

    @staticmethod
    def _keys(job: JobSnapshot, arguments: Mapping[str, str]) -> list[tuple[str, ...]]:
        name = job.saved.class_name
        named = [(name, own) for own in job.names]
        return [*named, *((name, *argument) for argument in arguments.items()), (name,)]

    def equal(self, saved: SavedJob, arguments: Mapping[str, str]) -> JobSnapshot | None:
        """Return the job of the same class and arguments."""
        return self._equal.get(_whole(saved, arguments))

    def closest(self, job: JobSnapshot, arguments: Mapping[str, str]) -> JobSnapshot | None:
        """Return the job of the class with a name in common, else with the fewest other arguments."""
        groups = [self._with_value.get(key, {}) for key in self._keys(job, arguments)]
        # those that share a rare value; all of the class only where no value is shared by few
        candidates: dict[str, JobSnapshot] = {}
        for group in sorted(filter(None, groups), key=len):
            if candidates and len(candidates) + len(group) > _MOST_COMPARED:
                break
            candidates.update(itertools.islice(group.items(), _MOST_COMPARED))

        def distance(other: JobSnapshot) -> tuple[bool, int]:
            theirs = self._arguments[other.saved.job_id]
            names = {*arguments, *theirs}
            return not set(job.names) & set(other.names), sum(
                arguments.get(name) != theirs.get(name) for name in names
            )

        return min(candidates.values(), key=distance, default=None)

    def remove(self, job: JobSnapshot) -> None:
        """Forget a job."""
        arguments = self._arguments[job.saved.job_id]
        self._equal.pop(_whole(job.saved, arguments), None)
        for key in self._keys(job, arguments):
            self._with_value[key].pop(job.saved.job_id, None)


def _whole(saved: SavedJob, arguments: Mapping[str, str]) -> object:
    return saved.class_name, saved.version, tuple(sorted(arguments.items()))


def _texts(saved: SavedJob, partners: Mapping[str, str]) -> dict[str, str]:
    return {name: _text(node, partners) for name, node in saved.counting.items()}


def _text(node: Node, partners: Mapping[str, str]) -> str:
    """A value with its types as text, with the old jobs in place of the new ones."""
    if node.job:
        return f"{node.kind} {partners.get(node.job, node.job)} {node.text}"
    if not node.parts:
        return f"{node.kind} {node.text}"
    parts = (f"{label}: {_text(part, partners)}" for label, part in node.parts.items())
    return f"{node.kind}({', '.join(parts)})"


def _followers(new: Snapshot, causes: Iterable[str], added: set[str]) -> dict[str, list[str]]:
    """New jobs behind each cause, dependencies first."""
    found: dict[str, list[str]] = {job_id: [] for job_id in causes}
    behind: dict[str, set[str]] = {}
    for job_id, job in new.jobs.items():
        if job_id not in added:
            continue
        above: set[str] = set()
        for creator in job.inputs:
            above |= behind.get(creator, set())
        for cause in above:
            found[cause].append(job_id)
        behind[job_id] = above | ({job_id} if job_id in found else set())
    return found
