"""Cleaning: packing finished jobs, and removing jobs that nothing needs (``tk.cleaner``).

Packing goes on by itself while the manager runs. Removing has to be asked for, lists what it would remove,
and asks once more.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from sisyphus import global_settings as gs
from sisyphus.cleaning import job_archive
from sisyphus.cleaning.removal import Filter, remove_directories
from sisyphus.cleaning.used_jobs import (
    KeepValueFilter,
    extract_keep_values_from_graph,
    find_too_low_keep_value,
    list_all_graph_directories,
    load_remove_list,
    load_used_paths,
    save_remove_list,
    save_used_paths,
    search_for_unused,
)
from sisyphus.errors import SisyphusError
from sisyphus.graph import graph
from sisyphus.job_identity import graph_lock

if TYPE_CHECKING:
    from sisyphus.graph import SISGraph
    from sisyphus.job import Job

__all__ = [
    "cleanup_jobs",
    "cleanup_keep_value",
    "cleanup_unused",
    "extract_keep_values_from_graph",
    "find_too_low_keep_value",
    "list_all_graph_directories",
    "load_remove_list",
    "load_used_paths",
    "remove_directories",
    "save_remove_list",
    "save_used_paths",
    "search_for_unused",
]

_given_up: set[str] = set()
"""Folders that could not be cleaned in this process: one warning each, no second try."""


_nothing_to_do: dict[str, tuple[int, int]] = {}
"""Folders that are packed, or are none of ours, and how they looked: one question each in later rounds."""


def cleanup_jobs(
    sis_graph: SISGraph | None = None, *, min_age_s: float = 0.0, stop: threading.Event | None = None
) -> list[Job]:
    """Pack all finished jobs of the graph: remove ``work/``, put all but outputs and info into one archive.

    Left alone are jobs that are not finished, folders that are links or lie behind one (imported jobs belong
    to somebody else), and folders that could not be cleaned before in this process.

    Args:
        sis_graph: default: the graph of this process.
        min_age_s: jobs finished less than so many seconds ago are left for the next call: the process of
            their last task may still be about to end.
        stop: once set, no further job is begun.

    Returns:
        The jobs that were cleaned now.
    """
    with graph_lock:  # no update may add inputs while the graph is gone through
        jobs = sorted((graph if sis_graph is None else sis_graph).jobs(update_graph=False))
    todo = [job for job in jobs if _should_clean(job, min_age_s)]
    with ThreadPoolExecutor(max(1, gs.JOB_CLEANER_WORKER)) as pool:
        done = list(pool.map(lambda job: not (stop and stop.is_set()) and _clean(job), todo))
    cleaned = [job for job, success in zip(todo, done, strict=True) if success]
    if cleaned:
        logging.debug("Cleaned %d finished jobs", len(cleaned))
    return cleaned


def _should_clean(job: Job, min_age_s: float) -> bool:
    folder = job._sis_dir
    look = _look(folder.path)
    if look is None or _nothing_to_do.get(folder.path) == look:
        return False
    names = folder.names()
    if gs.JOB_FINISHED_ARCHIVE not in names and gs.JOB_FINISHED_MARKER not in names:
        return False
    if folder.path in _given_up:
        return False
    if _is_linked(folder.path):
        _nothing_to_do[folder.path] = look
        return False
    if min_age_s > 0 and _age_s(folder.entry(gs.JOB_FINISHED_MARKER)) < min_age_s:
        return False
    is_clean = job_archive.is_clean(
        folder, keep_work=gs.JOB_CLEANUP_KEEP_WORK, keep_input=gs.JOB_CLEANUP_KEEP_INPUT
    )
    if is_clean:
        _nothing_to_do[folder.path] = look
    return not is_clean


def _look(path: str) -> tuple[int, int] | None:
    """What changes when anything in a folder is added or removed; None if it is not there."""
    try:
        stat = os.stat(path)
    except OSError:
        return None
    return stat.st_ino, stat.st_ctime_ns


def _is_linked(path: str) -> bool:
    """Whether a link below the work directory leads to this folder."""
    return os.path.realpath(path) != os.path.join(
        os.path.realpath(gs.WORK_DIR), os.path.relpath(path, gs.WORK_DIR)
    )


def _age_s(path: str) -> float:
    try:
        return time.time() - os.stat(path).st_mtime
    except FileNotFoundError:  # packed already
        return float("inf")


def _clean(job: Job) -> bool:
    try:
        job._sis_cleanup()
    except OSError as error:
        _given_up.add(job._sis_path())
        logging.warning("Cannot clean %s, it stays as it is: %s", job, error)
        return False
    return True


def cleanup_unused(
    load_from: str = "",
    job_dirs: Mapping[str, int] | None = None,
    mode: str = "remove",
    filter_unused: Filter | None = None,
    filter_printed: Filter | None = None,
) -> None:
    """Remove the jobs in the work directory that are not used, after a question.

    Args:
        load_from: file of used paths, see :func:`save_used_paths`.
        job_dirs: used folders, instead; without both: those of the graph.
        mode: ``remove``, ``move`` (aside) or ``dryrun``.
        filter_unused: function of a path; only those it is true for are removed.
        filter_printed: function of a path; only those it is true for are listed.

    Raises:
        SisyphusError: no job is used, so that everything would go.
    """
    if job_dirs is None:
        job_dirs = load_used_paths(load_from) if load_from else list_all_graph_directories()
    if not job_dirs:
        raise SisyphusError(
            f"no job is used, so every job in {gs.WORK_DIR} would be removed. Load the configs that use jobs "
            "first."
        )
    unused = search_for_unused(job_dirs, filter_unused=filter_unused)
    remove_directories(unused, "not used", mode=mode, filter_printed=filter_printed)


def cleanup_keep_value(
    min_keep_value: int,
    load_from: str = "",
    mode: str = "remove",
    filter_removed_jobs: KeepValueFilter | None = None,
    filter_printed: Filter | None = None,
) -> None:
    """Remove the jobs whose keep value is too low and that nothing needs any more, after a question.

    Args:
        min_keep_value: jobs of this value and above stay.
        load_from: file of keep values, see :func:`save_used_paths`; default: those of the graph.
        mode: ``remove``, ``move`` (aside) or ``dryrun``.
        filter_removed_jobs: function of path and keep value; only those it is true for are removed.
        filter_printed: function of a path; only those it is true for are listed.
    """
    values = load_used_paths(load_from) if load_from else extract_keep_values_from_graph()
    removed = find_too_low_keep_value(values, min_keep_value, filter_removed_jobs)
    remove_directories(
        removed, f"of keep value below {min_keep_value}", mode=mode, filter_printed=filter_printed
    )
