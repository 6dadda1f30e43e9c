"""``sis why``: which arguments make an id, and how they differ from those of another folder of the class."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from sisyphus.commands import jobs_by_name
from sisyphus.explaining.differences import Difference
from sisyphus.explaining.saved_jobs import SavedJob, class_of
from sisyphus.explaining.siblings import MOST_COMPARED
from sisyphus.explaining.why import Asked, explain, lines_of
from sisyphus.terminal.answers import count, say, say_json

_LONGEST = 300
"""Letters of a value that are shown; ``--json`` has all of them."""


def run(args: argparse.Namespace) -> int:
    """Run the command; exit code 0."""
    named = jobs_by_name.find(args.job, args.config_files)
    other = None if args.other is None else _asked(jobs_by_name.find(args.other, args.config_files))
    found = explain(_asked(named), other)
    if args.json:
        say_json({"state": _state(named), **found.as_json()})
        return 0
    _say_job(named, found.job, found.left_out)
    if found.other is None:
        say(f"\nNo other folder of {class_of(found.job.job_id)} to compare with.")
        return 0
    _say_differences(found.job, found.other, found.num_others, found.differences)
    return 0


def _asked(named: jobs_by_name.Named) -> Asked:
    return Asked(named.job_id, named.dir, named.job)


def _say_job(named: jobs_by_name.Named, job: SavedJob, left_out: frozenset[str]) -> None:
    say(f"{job.job_id} ({_state(named)})")
    if named.job is not None and named.job._sis_created_at:
        say(f"made at {named.job._sis_created_at}")
    if job.commit:
        say(f"recipe at commit {job.commit}")
    say("arguments that make the id:")
    for name, node in sorted(job.arguments.items()):
        if name not in left_out:
            for place, text in lines_of(name, node):
                say(f"  {place}: {_shortened(text)}")
    if job.version:
        say(f"  __sis_version__: {job.version}")
    if left_out:
        say("arguments that do not count:")
        for name in sorted(left_out):
            say(f"  {name}: {_shortened(str(job.arguments[name]))}")


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
