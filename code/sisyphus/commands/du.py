"""``sis du``: what jobs take on disk."""

from __future__ import annotations

import argparse

from sisyphus.cleaning.folders import job_folders
from sisyphus.cleaning.removal import readable_size, size_in_bytes
from sisyphus.explaining.saved_jobs import class_of
from sisyphus.terminal.answers import say_json, say_table


def run(args: argparse.Namespace) -> int:
    """Run the command; exit code 0."""
    sizes: dict[str, int] = {}
    numbers: dict[str, int] = {}
    for folder in job_folders(aside=True):
        if folder.imported:  # the link is ours, what it leads to is not
            continue
        name = folder.job_id if args.jobs else class_of(folder.job_id)
        sizes[name] = sizes.get(name, 0) + size_in_bytes(folder.path)
        numbers[name] = numbers.get(name, 0) + 1
    largest = sorted(sizes, key=lambda name: (-sizes[name], name))
    if args.json:
        say_json([{"name": name, "bytes": sizes[name], "jobs": numbers[name]} for name in largest])
        return 0
    rows = [(readable_size(sizes[name]), f"{numbers[name]:,}", name) for name in largest]
    total = (readable_size(sum(sizes.values())), f"{sum(numbers.values()):,}", "total")
    say_table([("size", "jobs", "job" if args.jobs else "class"), *rows, total], right=(0, 1))
    return 0
