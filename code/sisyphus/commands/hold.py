"""``sis hold`` and ``sis release``: jobs that shall not be started for now."""

from __future__ import annotations

import argparse
import logging
import os

from sisyphus.commands import jobs_by_name
from sisyphus.job_dir import HOLD


def hold(args: argparse.Namespace) -> int:
    """Keep jobs from being started; tasks that run go on. Exit code 0."""
    for name in args.jobs:
        folder = jobs_by_name.find(name, args.config_files).dir
        if folder.is_finished():
            logging.warning("%s is finished already: there is nothing to hold", folder.path)
            continue
        os.makedirs(folder.path, exist_ok=True)
        with open(folder.entry(HOLD), "ab"):
            pass
        logging.info("On hold: %s", folder.path)
    return 0


def release(args: argparse.Namespace) -> int:
    """Let jobs be started again.

    Returns:
        Exit code: 0, or 1 if one of them was not on hold.
    """
    code = 0
    for name in args.jobs:
        folder = jobs_by_name.find(name, args.config_files).dir
        try:
            os.unlink(folder.entry(HOLD))
        except FileNotFoundError:
            logging.error(
                "%s is not on hold by a file. If the recipe or config calls job.hold(), remove that.",
                folder.path,
            )
            code = 1
            continue
        if not folder.names():  # it was made only to hold the job
            os.rmdir(folder.path)
        logging.info("Released: %s", folder.path)
    return code
