"""``sis diff``: which jobs of a graph would be new, reused or orphaned, why, and what reuse saves."""

from __future__ import annotations

import argparse
import os
import signal
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from sisyphus import global_settings as gs
from sisyphus.errors import SisyphusError
from sisyphus.explaining.graph_diff import Cause, GraphDiff, compare
from sisyphus.explaining.revisions import checkout, snapshots
from sisyphus.explaining.saved_jobs import class_of
from sisyphus.explaining.snapshot import JobSnapshot, Snapshot
from sisyphus.job_dir import JobDir
from sisyphus.records.job_record import read_records, wall_seconds
from sisyphus.terminal.answers import count, say, say_json
from sisyphus.terminal.overview import duration

_LONGEST = 200
"""Letters of a value that are shown."""
_MOST_SHOWN = 20


def run(args: argparse.Namespace) -> int:
    """Run the command; exit code 0, or with ``--exit-code`` 1 if the graphs differ.

    Raises:
        SisyphusError: neither two configs nor a commit and one config, or a graph that cannot be built.
    """
    old, new = _snapshots(args)
    found = compare(old, new)
    times = _Times([*found.reused, *found.orphaned, *found.new])
    if args.json:
        say_json(_as_json(found, new, times))
    else:
        _say(found, old, new, times)
    return 1 if args.exit_code and (found.new or found.orphaned) else 0


def _snapshots(args: argparse.Namespace) -> list[Snapshot]:
    given = [*args.config_files, *args.configs]
    if args.against is None:
        if len(given) != 2:
            raise SisyphusError(
                f"give two configs to compare, got {len(given)}; or one config and --against COMMIT, to "
                f"compare it "
                "with what it was."
            )
        return snapshots([(gs.BASE_DIR, config) for config in given])
    if len(given) > 1:
        raise SisyphusError(f"--against COMMIT compares one config with what it was, got {' '.join(given)}.")
    config = given[0] if given else ""
    with _ctrl_c_at_sigterm(), checkout(args.against) as directory:
        return snapshots([(directory, config), (gs.BASE_DIR, config)])


@contextmanager
def _ctrl_c_at_sigterm() -> Iterator[None]:
    """Let SIGTERM unwind the stack, as Ctrl-C does: the checkout has to be removed."""
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


class _Times:
    """How long finished jobs ran, in seconds, by id; jobs that are not finished are not in it."""

    def __init__(self, job_ids: Iterable[str]) -> None:
        self._seconds: dict[str, float] = {}
        for job_id in job_ids:
            folder = JobDir(os.path.join(gs.WORK_DIR, job_id))
            if folder.is_finished():
                self._seconds[job_id] = wall_seconds(read_records(folder))

    def finished(self, job_ids: Iterable[str]) -> list[str]:
        return [job_id for job_id in job_ids if job_id in self._seconds]

    def total(self, job_ids: Iterable[str]) -> float:
        return sum(self._seconds.get(job_id, 0.0) for job_id in job_ids)


def _say(found: GraphDiff, old: Snapshot, new: Snapshot, times: _Times) -> None:
    there = times.finished(found.new)
    say(
        f"new       {count(len(found.new), 'job')}"
        + (
            f", {len(there)} of them finished already, {duration(times.total(there))} of compute"
            if there
            else ""
        )
    )
    reused = times.finished(found.reused)
    say(
        f"reused    {count(len(found.reused), 'job')}, {len(reused)} of them finished: "
        f"saves {duration(times.total(reused))} of compute"
    )
    orphaned = times.finished(found.orphaned)
    say(
        f"orphaned  {count(len(found.orphaned), 'job')}, {len(orphaned)} of them finished: "
        f"{duration(times.total(orphaned))} of compute are no longer used"
    )
    for causes in _alike(found.causes):
        say()
        _say_causes(causes, new)
    _say_orphaned(found, old)


def _say_orphaned(found: GraphDiff, old: Snapshot) -> None:
    """Orphaned jobs, apart from those that another one replaces."""
    replaced = set(found.replaced.values())
    left = [job_id for job_id in found.orphaned if job_id not in replaced]
    if left:
        say(f"\norphaned{', beside those that are replaced' if replaced else ''}: {_jobs_by_class(left)}")
        for job_id in left[:_MOST_SHOWN]:
            say(f"  {_named(job_id, old.jobs[job_id])}")
        if len(left) > _MOST_SHOWN:
            say(f"  and {len(left) - _MOST_SHOWN} more; --json lists all")


def _alike(causes: Iterable[Cause]) -> list[list[Cause]]:
    """Causes of one class with the same changes, those with the most followers first."""
    groups: dict[object, list[Cause]] = {}
    for cause in causes:
        changes = tuple((change.where, change.old, change.new) for change in cause.changes)
        alone = cause.job_id if not changes else ""
        groups.setdefault((class_of(cause.job_id), cause.replaces, changes, alone), []).append(cause)
    return sorted(groups.values(), key=lambda group: -sum(1 + len(cause.followers) for cause in group))


def _named(job_id: str, job: JobSnapshot) -> str:
    return f"{job_id} ({', '.join(job.names)})" if job.names else job_id


def _say_causes(causes: Sequence[Cause], new: Snapshot) -> None:
    first = causes[0]
    job = new.jobs[first.job_id]
    more = "" if len(causes) == 1 else f" and {len(causes) - 1} more {job.saved.class_name}"
    say(f"new: {_named(first.job_id, job)}{more}")
    if job.made_at:
        say(f"  made at {job.made_at}")
    others = "" if len(causes) == 1 else ", each of its own"
    if not first.before:
        say(f"  there was no {job.saved.class_name} before")
    elif first.replaces:
        say(f"  in place of {first.before}{others}, because")
    else:
        say(f"  beside {first.before}{others}, from which it differs in")
    for change in first.changes:
        say(f"    {change.where}: {_shortened(change.old)} -> {_shortened(change.new)}")
    own = {cause.job_id for cause in causes}
    followers = {job_id: None for cause in causes for job_id in cause.followers if job_id not in own}
    if followers:
        say(f"  and so also {_jobs_by_class(list(followers))}")


def _jobs_by_class(job_ids: Sequence[str]) -> str:
    counts: dict[str, int] = {}
    for job_id in job_ids:
        name = job_id.rpartition("/")[2].partition(".")[0]
        counts[name] = counts.get(name, 0) + 1
    return ", ".join(f"{number} {name}" for name, number in counts.items())


def _shortened(text: str) -> str:
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}... ({len(text)} letters)"


def _as_json(found: GraphDiff, new: Snapshot, times: _Times) -> dict[str, Any]:
    return {
        "new": found.new,
        "reused": found.reused,
        "orphaned": found.orphaned,
        "replaced": dict(found.replaced),
        "finished": times.finished([*found.new, *found.reused, *found.orphaned]),
        "saved_s": times.total(found.reused),
        "causes": [
            {
                "job": cause.job_id,
                "before": cause.before,
                "replaces": cause.replaces,
                "made_at": new.jobs[cause.job_id].made_at,
                "changes": [
                    {"where": change.where, "old": change.old, "new": change.new} for change in cause.changes
                ],
                "followers": list(cause.followers),
            }
            for cause in found.causes
        ],
    }
