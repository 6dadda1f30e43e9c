"""``sis export``: a target with all that it came from, as one folder."""

from __future__ import annotations

import argparse

from sisyphus.commands import jobs_by_name
from sisyphus.exporting.crate import export_job
from sisyphus.terminal.answers import count, say


def run(args: argparse.Namespace) -> int:
    """Run the command; exit code 0."""
    named = jobs_by_name.find(args.target, [*args.config_files, *args.configs])
    chosen = {} if args.licence is None else {"licence": args.licence}
    ids = export_job(named.job_id, args.output, all_outputs=args.all_outputs, **chosen)
    say(f"{args.output}: {named.job_id} with {count(len(ids) - 1, 'job')} that it came from")
    return 0
