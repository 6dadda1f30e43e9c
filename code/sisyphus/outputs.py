"""What appears below ``output/`` and ``alias/``: links, reports, and the journal of finished outputs."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Iterable
from typing import TYPE_CHECKING

from sisyphus import global_settings as gs
from sisyphus.job_dir import link_atomically, write_atomically

if TYPE_CHECKING:
    from sisyphus.job import Job
    from sisyphus.job_path import AbstractPath


def link_output(link: str, path: AbstractPath) -> bool:
    """Link a finished output; returns whether something changed.

    Args:
        link: relative to the project.
        path: what it leads to.
    """
    target = os.path.realpath(path.get_path())
    before = os.readlink(link) if os.path.islink(link) else None
    if before == target or not _link(target, link):
        return False
    if before is None:
        logging.info(f"Finished output: {link}")
        _note_finished(f"Finished output: {link} (-> {path.rel_path()})")
    else:
        _note_finished(f"Updated output: {link}: {_difference(before, target)}")
    return True


def link_aliases(jobs: Iterable[Job]) -> None:
    """Link the folders of all jobs that have an alias; of two jobs with one alias the first gets it."""
    taken: dict[str, Job] = {}
    for job in jobs:
        for alias in sorted(job.get_aliases() or ()):
            for prefix in sorted(job._sis_alias_prefixes):
                link = os.path.join(gs.ALIAS_DIR, prefix, alias)
                first = taken.setdefault(link, job)
                if first is job:
                    _link(os.path.realpath(job._sis_path()), link)
                else:
                    logging.warning(
                        f"Two jobs have the alias {alias!r}: {first._sis_path()} ({first._sis_created_at}) "
                        "keeps it, "
                        f"{job._sis_path()} ({job._sis_created_at}) does not get it"
                    )


def write_report(path: str, text: str) -> None:
    """Write a report in one step; a problem is only a warning."""
    try:
        _make_room(path)
        write_atomically(path, text.encode("utf-8"))
    except OSError as error:
        logging.warning(f"Cannot write the report {path}: {error}")


def _link(target: str, link: str) -> bool:
    """Make a link; a problem is only a warning, because it must not stop the experiment."""
    try:
        _make_room(link)
        link_atomically(target, link)
    except OSError as error:
        logging.warning(f"Cannot link {link} to {target}: {error}")
        return False
    return True


def _make_room(path: str) -> None:
    """Make the directories that lead to ``path``; a file that stands where one is needed is removed."""
    directory = os.path.dirname(path)
    if os.path.isdir(directory):
        return
    parts = directory.split(os.sep)
    for end in range(1, len(parts) + 1):
        part = os.sep.join(parts[:end])
        if part and os.path.lexists(part) and not os.path.isdir(part):
            logging.warning(f"Removed {part}: a directory is needed there for {path}")
            os.unlink(part)
    if directory:
        os.makedirs(directory, exist_ok=True)


def _note_finished(text: str) -> None:
    if not gs.FINISHED_LOG:
        return
    try:
        os.makedirs(os.path.dirname(gs.FINISHED_LOG) or ".", exist_ok=True)
        with open(gs.FINISHED_LOG, "a", encoding="utf-8") as file:
            file.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')}: {text}\n")
    except OSError as error:
        logging.warning(f"Cannot write {gs.FINISHED_LOG}: {error}")


def _difference(before: str, after: str) -> str:
    """Both paths without the directories that they share."""
    common = os.path.commonpath([before, after]) if os.path.isabs(before) == os.path.isabs(after) else ""
    prefix = common.rstrip(os.sep) + os.sep if common else ""
    return f"{before.removeprefix(prefix)} -> {after.removeprefix(prefix)}"
