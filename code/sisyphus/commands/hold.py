"""``sis hold`` and ``sis release``: jobs that shall not be started for now."""

from __future__ import annotations

import argparse

from sisyphus.commands import jobs_by_name
from sisyphus.managing import requests


def hold(args: argparse.Namespace) -> int:
    """Keep jobs from being started; tasks that run go on.

    Returns:
        Exit code: 0, or 1 if one of them is finished.
    """
    done = [requests.hold(jobs_by_name.find(name, args.config_files).dir) for name in args.jobs]
    return 0 if all(done) else 1


def release(args: argparse.Namespace) -> int:
    """Let jobs be started again.

    Returns:
        Exit code: 0, or 1 if one of them was not on hold.
    """
    done = [requests.release(jobs_by_name.find(name, args.config_files).dir) for name in args.jobs]
    return 0 if all(done) else 1
