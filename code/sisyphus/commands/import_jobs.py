"""``sis import``: take over finished jobs of other work directories instead of computing them again."""

from __future__ import annotations

import argparse
import os

from sisyphus.commands import jobs_by_name
from sisyphus.errors import SisyphusError
from sisyphus.graph_tools.work_import import import_work_directory
from sisyphus.terminal.answers import count, say


def run(args: argparse.Namespace) -> int:
    """Run the command; exit code 0.

    Raises:
        SisyphusError: a directory does not exist.
    """
    for directory in args.dirs:
        if not os.path.isdir(directory):
            raise SisyphusError(
                f"{directory} is no directory. Name work directories; configs go behind --from."
            )
    jobs_by_name.load([*args.config_files, *args.configs])
    mode = "dryrun" if args.dry_run else {"link": "symlink"}.get(args.mode, args.mode)
    imported = import_work_directory(args.dirs, mode=mode, use_alias=args.use_alias)
    for job in imported:
        say(str(job))
    say(f"{count(len(imported), 'job')} imported")
    return 0
