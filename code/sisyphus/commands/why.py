"""``sis why``: which arguments make an id, and how they differ from those of another folder of the class."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from sisyphus.commands import jobs_by_name
from sisyphus.errors import JobDirError, SisyphusError
from sisyphus.explaining.described import Node
from sisyphus.explaining.differences import Difference, differences
from sisyphus.explaining.identity import left_out_of_id
from sisyphus.explaining.saved_jobs import SavedJob, class_of, read_saved_job, save_in_memory
from sisyphus.explaining.siblings import MOST_COMPARED, Folders, closest
from sisyphus.graph import dependencies_first
from sisyphus.terminal.answers import count, say, say_json

_WIDTH = 100
"""Letters of a value that are put on one line if it has parts."""
_LONGEST = 300
"""Letters of a value that are shown; ``--json`` has all of them."""


def run(args: argparse.Namespace) -> int:
    """Run the command; exit code 0."""
    named = jobs_by_name.find(args.job, args.config_files)
    job, known = _saved(named)
    folders = Folders(known)
    left_out = left_out_of_id(named.job) if named.job is not None else frozenset()
    num_others = 0
    if args.other is None:
        other, num_others = closest(job, folders)
    else:
        other = _saved(jobs_by_name.find(args.other, args.config_files))[0]
        if class_of(other.job_id) != class_of(job.job_id):
            raise SisyphusError(
                f"{job.job_id} and {other.job_id} are of different classes, so their ids have nothing in "
                f"common."
            )
    found = [] if other is None else differences(other, job, folders.find)
    if args.json:
        say_json(_as_json(named, job, left_out, other, found))
        return 0
    _say_job(named, job, left_out)
    if other is None:
        say(f"\nNo other folder of {class_of(job.job_id)} to compare with.")
        return 0
    _say_differences(job, other, num_others, found)
    return 0


def _saved(named: jobs_by_name.Named) -> tuple[SavedJob, list[SavedJob]]:
    """A job, and all jobs of its graph as far as they are known without a folder."""
    if named.job is None:
        return read_saved_job(named.dir.path, named.job_id), []
    ancestors = [save_in_memory(job) for job in dependencies_first([named.job])]
    job = ancestors[-1]
    if named.dir.exists():  # the code that it was made with is not that of now
        job = replace(job, commit=_commit_of_folder(named))
    return job, ancestors


def _commit_of_folder(named: jobs_by_name.Named) -> str:
    try:
        return read_saved_job(named.dir.path, named.job_id).commit
    except JobDirError:  # nothing is saved in it, e.g. because it was made only to hold the job
        return ""


def _say_job(named: jobs_by_name.Named, job: SavedJob, left_out: frozenset[str]) -> None:
    say(f"{job.job_id} ({_state(named)})")
    if named.job is not None and named.job._sis_created_at:
        say(f"made at {named.job._sis_created_at}")
    if job.commit:
        say(f"recipe at commit {job.commit}")
    say("arguments that make the id:")
    for name, node in sorted(job.arguments.items()):
        if name not in left_out:
            _say_argument(f"  {name}", node)
    if job.version:
        say(f"  __sis_version__: {job.version}")
    if left_out:
        say("arguments that do not count:")
        for name in sorted(left_out):
            say(f"  {name}: {_shortened(str(job.arguments[name]))}")


def _say_argument(place: str, node: Node) -> None:
    """A value on one line, or if that gets long, each of its parts on a line of its own."""
    text = str(node)
    if len(text) <= _WIDTH or not node.parts:
        say(f"{place}: {_shortened(text)}")
        return
    for label, part in node.parts.items():
        _say_argument(f"{place}{label}", part)


def _state(named: jobs_by_name.Named) -> str:
    if named.dir.is_finished():
        return "finished"
    return "not finished" if named.dir.exists() else "no folder yet"


def _say_differences(job: SavedJob, other: SavedJob, num_others: int, found: Sequence[Difference]) -> None:
    closest_of = f", the closest of {count(num_others, 'other folder')} of this class" if num_others else ""
    if num_others > MOST_COMPARED:
        closest_of += f" ({MOST_COMPARED:,} newest)"
    say(f"\ncompared with {other.job_id}{closest_of} (there -> here):")
    chain: tuple[tuple[str, str], ...] = ()
    for difference in sorted(found, key=lambda difference: len(difference.chain)):  # the nearest ones first
        _say_chain(chain, difference.chain)
        chain = difference.chain
        last = difference.where.rpartition(" -> ")[2]
        say(f"{'  ' * len(chain)}{last}: {_shortened(difference.old)} -> {_shortened(difference.new)}")
    if job.commit and other.commit and job.commit != other.commit:
        say(f"recipe at commit {other.commit} -> {job.commit}")


def _say_chain(before: Sequence[tuple[str, str]], chain: Sequence[tuple[str, str]]) -> None:
    """The jobs behind the compared ones that lead to a difference, but those that were named just before."""
    for depth, (old, new) in enumerate(chain[1:], start=1):
        if tuple(before[: depth + 1]) != tuple(chain[: depth + 1]):
            say(f"{'  ' * depth}through {old} -> {new}:")


def _shortened(text: str) -> str:
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}... ({len(text)} letters)"


def _as_json(
    named: jobs_by_name.Named,
    job: SavedJob,
    left_out: frozenset[str],
    other: SavedJob | None,
    found: Sequence[Difference],
) -> dict[str, Any]:
    return {
        "job": job.job_id,
        "state": _state(named),
        "commit": job.commit,
        "version": job.version,
        "arguments": {name: node.as_json() for name, node in job.arguments.items()},
        "left_out": sorted(left_out),
        "other": None if other is None else other.job_id,
        "differences": [
            {
                "where": difference.where,
                "old": difference.old,
                "new": difference.new,
                "chain": [list(pair) for pair in difference.chain],
            }
            for difference in found
        ],
    }
