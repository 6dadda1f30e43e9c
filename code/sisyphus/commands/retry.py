"""``sis retry``: let failed and interrupted tasks run again, without what they left of their tries."""

from __future__ import annotations

import argparse

from sisyphus.commands import jobs_by_name
from sisyphus.managing import requests


def run(args: argparse.Namespace) -> int:
    """Run the command; a manager that runs starts the tasks by itself.

    Returns:
        Exit code: 0, or 1 if one of the jobs has nothing to try again.
    """
    folders = [jobs_by_name.find(name, args.config_files).dir for name in args.jobs]
    done = [requests.retry(folder, from_start=args.from_start) for folder in folders]
    return 0 if all(done) else 1
