"""Finished jobs of other work directories: taken over instead of computed again."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Iterator, Sequence

from sisyphus import global_settings as gs
from sisyphus.cleaning.removal import check_mode
from sisyphus.graph import graph
from sisyphus.graph_tools.transfer import MODES, can_take_over, transfer
from sisyphus.job import Job
from sisyphus.job_dir import JobDir


def import_work_directory(
    directories: str | Sequence[str], mode: str = "dryrun", use_alias: bool = False
) -> list[Job]:
    """Take over finished jobs of the same id for all jobs of the graph that are not set up here.

    Goes on while the graph grows: what is imported may lead to further jobs.

    Args:
        directories: one or more work directories; the first that has a finished job is used.
        mode: ``dryrun``, ``copy``, ``symlink`` (to where the folder really lies) or ``hardlink``.
        use_alias: also take finished jobs of the same alias, below the directory or in ``alias`` beside it;
            their ids, and so perhaps their results, may be others.

    Returns:
        The jobs that were imported.

    Raises:
        SisyphusError: the mode is unknown.
    """
    check_mode(mode, MODES)
    directories = [directories] if isinstance(directories, str) else list(directories)
    for directory in directories:
        if not os.path.isdir(directory):
            logging.warning("There is no work directory %s", directory)
    imported: list[Job] = []
    looked_at: set[Job] = set()
    while new := [job for job in graph.jobs_sorted() if job not in looked_at]:
        looked_at.update(new)
        imported += [job for job in new if _import(job, directories, mode, use_alias)]
    logging.info("Imported %d jobs", len(imported))
    return imported


def _import(job: Job, directories: Iterable[str], mode: str, use_alias: bool) -> bool:
    if not can_take_over(job._sis_path()):
        return False
    for source in _candidates(job, directories, use_alias):
        if JobDir(source).is_finished():
            return transfer(os.path.realpath(source), job._sis_path(), mode)
    return False


def _candidates(job: Job, directories: Iterable[str], use_alias: bool) -> Iterator[str]:
    for directory in directories:
        yield os.path.join(directory, os.path.relpath(job._sis_path(), gs.WORK_DIR))
        if not use_alias:
            continue
        beside = os.path.join(os.path.dirname(os.path.abspath(directory)), gs.ALIAS_DIR)
        for root in (directory, beside):
            for prefix in sorted(job._sis_alias_prefixes):
                yield from (os.path.join(root, prefix, alias) for alias in sorted(job.get_aliases() or ()))
