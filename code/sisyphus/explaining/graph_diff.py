"""What is new, reused and orphaned between two graphs, and which changes are the causes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from sisyphus.explaining.described import MISSING, Node
from sisyphus.explaining.differences import Difference, own_differences
from sisyphus.explaining.saved_jobs import SavedJob
from sisyphus.explaining.snapshot import JobSnapshot, Snapshot

_MOST_COMPARED = 500
"""Jobs of a class that are looked at to find the one that a new one was."""


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
    )


class _Partners:
    """Which job of the old graph a new one was."""

    def __init__(self, old: Snapshot, orphaned: Sequence[str]) -> None:
        self._old = old
        self._found: dict[str, str] = {}
        self._free: dict[str, dict[str, JobSnapshot]] = {}
        self._by_arguments: dict[tuple[str, str, str], str] = {}
        for job_id in orphaned:
            job = old.jobs[job_id]
            self._free.setdefault(job.saved.class_name, {})[job_id] = job
            self._by_arguments[_key(job.saved, {})] = job_id
        self._all: dict[str, list[JobSnapshot]] = {}
        for job in old.jobs.values():
            self._all.setdefault(job.saved.class_name, []).append(job)

    def explain(self, job: JobSnapshot) -> Cause | None:
        """Find the partner of a new job; None if nothing but its inputs is new."""
        saved = job.saved
        free = self._free.get(saved.class_name, {})
        same = self._by_arguments.get(_key(saved, self._found))
        if same in free:
            self._found[saved.job_id] = same
            del free[same]
            return None
        replaced = self._closest(job, list(free.values()))
        before = replaced or self._closest(job, self._all.get(saved.class_name, []))
        if before is None:
            return Cause(saved.job_id, "", False, (), ())
        before_id = before.saved.job_id
        changes = tuple(own_differences(before.saved, saved, self._found))
        if replaced is not None:
            self._found[saved.job_id] = before_id
            del free[before_id]
        return Cause(saved.job_id, before_id, replaced is not None, changes, ())

    def _closest(self, job: JobSnapshot, candidates: Sequence[JobSnapshot]) -> JobSnapshot | None:
        """The one with a name in common, else the one that differs in the fewest arguments."""

        def distance(other: JobSnapshot) -> tuple[bool, int]:
            arguments = {**job.saved.arguments, **other.saved.arguments}
            num = sum(
                _with_partners(job.saved.arguments.get(name, MISSING), self._found)
                != other.saved.arguments.get(name, MISSING)
                for name in arguments
            )
            return not set(job.names) & set(other.names), num

        return min(candidates[:_MOST_COMPARED], key=distance, default=None)


def _key(job: SavedJob, partners: Mapping[str, str]) -> tuple[str, str, str]:
    """What two jobs have in common that differ by their inputs' ids alone."""
    arguments = sorted((name, repr(_with_partners(node, partners))) for name, node in job.arguments.items())
    return job.class_name, job.version, repr(arguments)


def _with_partners(node: Node, partners: Mapping[str, str]) -> Node:
    """A value as it would be with the old jobs in place of the new ones."""
    if node.job:
        return replace(node, job=partners.get(node.job, node.job))
    if not node.parts:
        return node
    return replace(node, parts={label: _with_partners(part, partners) for label, part in node.parts.items()})


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
