"""The links that people look at: ``output/`` for registered outputs, ``alias/`` for jobs with names."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

import sisyphus.global_settings as gs
from sisyphus.atomic_files import link_atomically

if TYPE_CHECKING:
    from sisyphus.job import Job
    from sisyphus.job_path import AbstractPath


def output_links(name: str, value: AbstractPath) -> list[str]:
    """Where an output is linked, relative: once for each alias prefix that its job was made under."""
    prefixes = getattr(value.creator, "_sis_alias_prefixes", None) or {""}
    return [os.path.join(gs.OUTPUT_DIR, prefix, name) for prefix in sorted(prefixes)]


def update_output(name: str, value: AbstractPath) -> bool:
    """Link an available output, and note it in the log and the journal if anything changed.

    Args:
        name: as registered; may contain slashes.
        value: the path; available.

    Returns:
        Whether all its links are there now. A link that cannot be made only warns.
    """
    target = os.path.realpath(value.get_path())
    complete = True
    for link in output_links(name, value):
        before = os.readlink(link) if os.path.islink(link) else None
        if before == target:
            continue
        if not _link(target, link):
            complete = False
        elif before is None:
            logging.info("Finished output: %s", link)
            _journal(f"Finished output: {link} (-> {value.rel_path()})")
        else:
            logging.info("Updated output: %s", link)
            _journal(f"Updated output: {link}: {' -> '.join(_differing_parts(before, target))}")
    return complete


def create_aliases(jobs: Iterable[Job]) -> None:
    """Link ``alias/PREFIX/NAME`` to the directory of each job that has a name, set up or not.

    Two jobs with one alias: a warning names both, the first keeps it.
    """
    owners: dict[str, Job] = {}
    for job in jobs:
        for link in _alias_links(job):
            owner = owners.setdefault(link, job)
            if owner is job:
                _link(os.path.realpath(job._sis_path()), link)
            else:
                logging.warning(
                    "Two jobs have the alias %s: %s (%s) keeps it, %s (%s) does not get it",
                    link,
                    owner._sis_path(),
                    owner._sis_created_at,
                    job._sis_path(),
                    job._sis_created_at,
                )


def _alias_links(job: Job) -> Iterator[str]:
    for prefix in sorted(job._sis_alias_prefixes or {""}):
        for alias in sorted(job.get_aliases() or ()):
            yield os.path.join(gs.ALIAS_DIR, prefix, alias)


def _link(target: str, link: str) -> bool:
    """Make a link; a problem is only a warning, because it must not stop the experiment."""
    try:
        make_directories(os.path.dirname(link))
        link_atomically(target, link)
    except OSError as error:
        logging.warning("Cannot link %s to %s: %s", link, target, error)
        return False
    return True


def make_directories(directory: str) -> None:
    """Make a directory; a file or link in its way is removed: an output became a folder of outputs."""
    if not directory or os.path.isdir(directory):
        return
    make_directories(os.path.dirname(directory))
    if os.path.lexists(directory):
        logging.warning("Removed %s: a directory is needed in its place", directory)
        os.unlink(directory)
    os.makedirs(directory, exist_ok=True)


def _journal(text: str) -> None:
    if not gs.FINISHED_LOG:
        return
    try:
        make_directories(os.path.dirname(gs.FINISHED_LOG))
        with open(gs.FINISHED_LOG, "a", encoding="utf-8") as journal:
            journal.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')}: {text}\n")
    except OSError as error:
        logging.warning("Cannot write the journal %s: %s", gs.FINISHED_LOG, error)


def _differing_parts(old: str, new: str) -> tuple[str, str]:
    """Two paths without the directories that they begin with in common."""
    common = os.path.commonpath([old, new]) if os.path.isabs(old) == os.path.isabs(new) else ""
    cut = len(common) + 1 if len(common) > 1 else 0
    return old[cut:] or old, new[cut:] or new
