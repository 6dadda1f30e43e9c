"""``sis cancel``: stop what is queued or running of jobs, and hold them."""

from __future__ import annotations

import argparse

from sisyphus.commands import jobs_by_name
from sisyphus.engines import cached_engine
from sisyphus.managing import requests


def run(args: argparse.Namespace) -> int:
    """Run the command; ``sis release`` lets the jobs go on where they can resume.

    Returns:
        Exit code: 0, or 1 if one of the jobs is finished.
    """
    engine = cached_engine()
    jobs = [jobs_by_name.find(name, args.config_files) for name in args.jobs]
    done = [requests.cancel(named.dir, engine, named.job) for named in jobs]
    return 0 if all(done) else 1
