"""``sis clean``: remove job folders by age, keep value, or because no config reaches them; after a question.

Never touched are folders that do not look like jobs, imported jobs, jobs that run, and jobs whose outputs an
unfinished job needs.
"""

from __future__ import annotations

import argparse
import logging
import os
from collections.abc import Iterator, Mapping, Sequence

from sisyphus.cleaning.folders import JobFolder, is_running, job_folders, users
from sisyphus.cleaning.removal import readable_size, size_in_bytes
from sisyphus.cleaning.used_jobs import extract_keep_values_from_graph, find_too_low_keep_value
from sisyphus.commands import jobs_by_name
from sisyphus.errors import SisyphusError
from sisyphus.terminal.answers import count, say, say_table
from sisyphus.terminal.overview import duration
from sisyphus.terminal.prompts import confirm


def run(args: argparse.Namespace) -> int:
    """Run the command.

    Returns:
        Exit code: 0, or 1 if something that should go could not be removed.

    Raises:
        SisyphusError: nothing says which jobs are meant, or the configs make no jobs.
    """
    if args.older_than is None and args.keep_value is None and not args.unreachable:
        raise SisyphusError(
            "say which jobs to remove: --unreachable, --keep-value N, --older-than 30d, or several."
        )
    folders = list(job_folders(aside=True))
    chosen = list(_chosen(folders, args))
    used_by = users(folders)
    going = {folder.path for folder in chosen}
    protected = {folder.path: why for folder in chosen if (why := _why_not(folder, used_by, going))}
    for path, why in sorted(protected.items()):
        logging.warning("%s stays: %s", path, why)
    chosen = [folder for folder in chosen if folder.path not in protected]
    if not chosen:
        say("Nothing to remove.")
        return 0
    _list(chosen, used_by, going)
    if args.dry_run:
        return 0
    if not (
        args.yes or confirm(f"Remove {'this job' if len(chosen) == 1 else f'these {len(chosen)} jobs'}?")
    ):
        say("Nothing is removed.")
        return 0
    return _remove(chosen)


def _chosen(folders: Sequence[JobFolder], args: argparse.Namespace) -> Iterator[JobFolder]:
    """Jobs that no config reaches, or those of low keep value, or all; of these those that are old."""
    by_graph = args.unreachable or args.keep_value is not None
    values = _of_graph([*args.config_files, *args.configs]) if by_graph else {}
    reachable = {os.path.normpath(path) for path in values}
    low = () if args.keep_value is None else find_too_low_keep_value(values, args.keep_value)
    wanted = {os.path.normpath(path) for path in low}
    for folder in folders:
        path = os.path.normpath(folder.path)
        if folder.imported or ".import." in path:  # the latter are just being made
            continue
        if by_graph and not (path in wanted or (args.unreachable and path not in reachable)):
            continue
        if args.older_than is None or folder.age_s() >= args.older_than:
            yield folder


def _of_graph(configs: Sequence[str]) -> Mapping[str, int]:
    jobs_by_name.load(configs)
    jobs_by_name.refuse_unfinished_configs()
    values = extract_keep_values_from_graph()
    if not values:
        raise SisyphusError(
            "these configs make no jobs, so every job would be removed. Name the configs to keep."
        )
    return values


def _why_not(folder: JobFolder, used_by: Mapping[str, list[JobFolder]], going: set[str]) -> str:
    """Why a folder must stay; empty if it may go."""
    if is_running(folder.dir):
        return "it runs"
    for user in used_by.get(os.path.realpath(folder.path), ()):
        if user.path not in going and not user.dir.is_finished():
            return f"{user.path} needs it and is not finished"
    return ""


def _list(chosen: Sequence[JobFolder], used_by: Mapping[str, list[JobFolder]], going: set[str]) -> None:
    sizes = {folder.path: size_in_bytes(folder.path) for folder in chosen}
    rows: list[tuple[str, ...]] = [("size", "age", "job", "used by")]
    for folder in sorted(chosen, key=lambda folder: (-sizes[folder.path], folder.path)):
        others = [user for user in used_by.get(os.path.realpath(folder.path), ()) if user.path not in going]
        rows.append(
            (
                readable_size(sizes[folder.path]),
                duration(folder.age_s()) if folder.age_s() < 48 * 3600 else f"{folder.age_s() / 86400:.0f} d",
                folder.job_id,
                _short(others),
            )
        )
    say_table(rows, right=(0, 1))
    say(f"{count(len(chosen), 'job')}, {readable_size(sum(sizes.values()))}")


def _short(others: Sequence[JobFolder]) -> str:
    if not others:
        return ""
    first = others[0].job_id
    return first if len(others) == 1 else f"{first} and {len(others) - 1} more"


def _remove(chosen: Sequence[JobFolder]) -> int:
    code = 0
    for folder in chosen:
        if is_running(folder.dir):
            logging.warning("%s stays: it has just been started", folder.path)
            continue
        try:
            folder.dir.delete()
        except OSError as error:
            logging.error("Cannot remove %s: %s", folder.path, error)
            code = 1
    return code
