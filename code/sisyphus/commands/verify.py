"""``sis verify``: whether outputs are still what they were when their jobs finished."""

from __future__ import annotations

import argparse
import logging

from sisyphus.cleaning.folders import job_folders
from sisyphus.commands import jobs_by_name
from sisyphus.job_dir import JobDir
from sisyphus.records import output_hashes
from sisyphus.terminal.answers import count, say


def run(args: argparse.Namespace) -> int:
    """Run the command.

    Returns:
        Exit code: 0, or 1 if an output changed, or if a job that was named is not finished or has no hashes.
    """
    code = 0
    num_verified = num_without = 0
    for folder in _folders(args):
        if not folder.is_finished():
            if args.jobs:
                logging.error("%s is not finished", folder.path)
                code = 1
            continue
        if args.write and output_hashes.read_hashes(folder) is None:
            output_hashes.write_hashes(folder)
        problems = output_hashes.verify(folder)
        if problems is None:
            num_without += 1
            continue
        num_verified += 1
        for path, problem in problems:
            say(f"{problem}: {folder.entry(path)}")
            code = 1
    say(f"{count(num_verified, 'job')} verified, {num_without} without hashes")
    if num_without and args.jobs:
        logging.error(
            "Hashes are noted when a job finishes if RECORD_OUTPUT_HASHES is set; --write notes those of now."
        )
        code = 1
    return code


def _folders(args: argparse.Namespace) -> list[JobDir]:
    if args.jobs:
        return [jobs_by_name.find(name, args.config_files).dir for name in args.jobs]
    return [folder.dir for folder in job_folders()]
