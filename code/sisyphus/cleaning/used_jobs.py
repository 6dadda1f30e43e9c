"""Which job folders are used, says the graph of this process or a list in a file; and which are not."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping

from sisyphus import global_settings as gs
from sisyphus.errors import SisyphusError
from sisyphus.graph import creators_of, graph
from sisyphus.job import Job
from sisyphus.job_dir import looks_like_job

IN_GRAPH = -4
"""The graph has this job."""
UNFINISHED = -3
"""The job is not finished."""
NEEDED = -2
"""It leads to an unfinished job, or a target wants it."""
NO_KEEP_VALUE = -1
"""Nothing was set: counts as ``gs.JOB_DEFAULT_KEEP_VALUE``. Numbers from 0 on are keep values."""

KeepValueFilter = Callable[[str, int], bool]


def list_all_graph_directories() -> dict[str, int]:
    """Return the folders of all jobs in the graph, with the status ``IN_GRAPH``."""
    return {job._sis_path(): IN_GRAPH for job in sorted(graph.jobs())}


def extract_keep_values_from_graph() -> dict[str, int]:
    """Return the folders of all jobs in the graph, with their status.

    Status: -3 not finished, -2 still needed, -1 without keep value, else the keep value.
    """
    jobs = graph.jobs()
    needed = _needed(jobs)
    return {job._sis_path(): _status(job, job in needed) for job in sorted(jobs)}


def _status(job: Job, needed: bool) -> int:
    if not job._sis_finished():
        return UNFINISHED
    if needed:
        return NEEDED
    value = job.keep_value()
    return NO_KEEP_VALUE if value is None else value


def _needed(jobs: Collection[Job]) -> set[Job]:
    """Jobs that targets want, and all ancestors of unfinished ones."""
    unfinished = [job for job in jobs if not job._sis_finished()]
    needed: set[Job] = set()
    while unfinished:
        for creator in creators_of(unfinished.pop()):
            if creator not in needed:
                needed.add(creator)
                unfinished.append(creator)
    wanted = (path.creator for target in graph.targets for path in target.required_full_list)
    return needed.union(creator for creator in wanted if isinstance(creator, Job))


# --- lists in files ---


def save_used_paths(outfile: str, dirs: Mapping[str, int] | None = None) -> None:
    """Append lines ``path status`` to a file, so that several configs can be collected in one.

    Args:
        outfile: is made if it is not there.
        dirs: folder to status; default: those of the graph.
    """
    dirs = list_all_graph_directories() if dirs is None else dirs
    with open(outfile, "a", encoding="utf-8") as file:
        file.writelines(f"{path} {status}\n" for path, status in dirs.items())


def load_used_paths(infile: str) -> dict[str, int]:
    """Read what :func:`save_used_paths` wrote; of several statuses of a job the most protective one counts.

    Raises:
        SisyphusError: a line is not ``path status``.
    """
    dirs: dict[str, int] = {}
    with open(infile, encoding="utf-8") as file:
        for number, line in enumerate(file, start=1):
            path, _, status = line.rstrip("\n").rpartition(" ")
            try:
                value = int(status)
            except ValueError as error:
                raise SisyphusError(f"{infile}:{number}: not 'path status': {line.rstrip()!r}") from error
            dirs[path] = min(value, dirs.get(path, value), key=_how_removable)
    return dirs


def _how_removable(status: int) -> int:
    """Order of statuses: the best protected first."""
    return status if status < NO_KEEP_VALUE else -effective_keep_value(status) + 100


def effective_keep_value(status: int) -> int:
    """The keep value, where there is none the default."""
    return gs.JOB_DEFAULT_KEEP_VALUE if status == NO_KEEP_VALUE else status


def save_remove_list(to_remove: Iterable[str], outfile: str) -> None:
    """Write one path a line."""
    with open(outfile, "w", encoding="utf-8") as file:
        file.writelines(f"{path}\n" for path in to_remove)


def load_remove_list(infile: str) -> list[str]:
    """Read what :func:`save_remove_list` wrote."""
    with open(infile, encoding="utf-8") as file:
        return [line for line in file.read().splitlines() if line]


# --- what is not used ---


def search_for_unused(
    job_dirs: Mapping[str, int] | Collection[str],
    current: str | None = None,
    verbose: bool = True,
    filter_unused: Callable[[str], bool] | None = None,
) -> list[str]:
    """Return the job folders below ``current`` that are not among ``job_dirs``, sorted.

    Only what looks like a job folder counts: it holds ``output/`` and one of ``info``, ``job.save``,
    ``finished`` and ``finished.tar.gz``. Other files and directories, whoever put them into the work
    directory, are never taken for unused jobs, and never removed. Folders that were moved aside
    (``.cleared.0001``) are job folders, too; of an imported job the link counts, not what it leads to.

    Args:
        job_dirs: used folders, relative to the project or absolute.
        current: where to search; default: the work directory.
        verbose: log how many were found.
        filter_unused: function of a path; only those it is true for are returned.
    """
    top = gs.WORK_DIR if current is None else current
    used = {_normal(path) for path in job_dirs}
    unused = [path for path in _job_folders(top, used) if filter_unused is None or filter_unused(path)]
    if verbose:
        logging.info("%d job folders in %s are not used", len(unused), top)
    return unused


def _normal(path: str) -> str:
    return os.path.normpath(os.path.join(gs.BASE_DIR, path))


def _job_folders(directory: str, used: set[str]) -> Iterator[str]:
    """Unused job folders below a directory; job folders are not entered, links neither."""
    for entry in sorted(os.scandir(directory), key=lambda entry: entry.name):
        if not entry.is_dir() or _normal(entry.path) in used:
            continue
        if looks_like_job(entry.path):
            yield entry.path
        elif not entry.is_symlink():
            yield from _job_folders(entry.path, used)


def find_too_low_keep_value(
    job_dirs: Mapping[str, int], min_keep_value: int, filter_removed_jobs: KeepValueFilter | None = None
) -> list[str]:
    """Return the folders that are there and whose keep value is below ``min_keep_value``, sorted.

    Jobs that are unfinished or still needed are never among them.

    Args:
        job_dirs: folder to status.
        min_keep_value: 0 to 100.
        filter_removed_jobs: function of path and keep value; only those it is true for are returned.
    """
    if not 0 <= min_keep_value <= 100:
        raise SisyphusError(f"the lowest keep value that stays must be 0 to 100, got {min_keep_value}")
    found = []
    for path, status in sorted(job_dirs.items()):
        value = effective_keep_value(status)
        if not 0 <= value < min_keep_value or not os.path.lexists(path):
            continue
        if filter_removed_jobs is None or filter_removed_jobs(path, value):
            found.append(path)
    return found
