"""``sis why``: which arguments make an id, and how they differ from those of another folder of the class."""

from __future__ import annotations

import argparse

from sisyphus.commands import jobs_by_name
from sisyphus.explaining.lines import lines
from sisyphus.explaining.why import Asked, explain
from sisyphus.terminal.answers import say, say_json


def run(args: argparse.Namespace) -> int:
    """Run the command; exit code 0."""
    named = jobs_by_name.find(args.job, args.config_files)
    other = None if args.other is None else _asked(jobs_by_name.find(args.other, args.config_files))
    found = explain(_asked(named), other)
    if args.json:
        say_json({"state": _state(named), **found.as_json()})
        return 0
    say(f"{named.job_id} ({_state(named)})")
    if named.job is not None and named.job._sis_created_at:
        say(f"made at {named.job._sis_created_at}")
    for line in lines(found):
        say(line)
    return 0


def _asked(named: jobs_by_name.Named) -> Asked:
    return Asked(named.job_id, named.dir, named.job)


def _state(named: jobs_by_name.Named) -> str:
    if named.dir.is_finished():
        return "finished"
    return "not finished" if named.dir.exists() else "no folder yet"
