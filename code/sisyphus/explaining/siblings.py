"""Saved jobs of the work directory by id, and those of one class."""

from __future__ import annotations

import glob
import logging
import os
from collections.abc import Iterable

from sisyphus import global_settings as gs
from sisyphus.errors import JobDirError
from sisyphus.explaining.described import MISSING
from sisyphus.explaining.differences import differences
from sisyphus.explaining.saved_jobs import SavedJob, class_of, read_saved_job
from sisyphus.job_dir import is_aside, looks_like_job

MOST_COMPARED = 10_000
"""Folders of a class that are read to find the closest one: the newest."""
_MOST_COMPARED_DEEPLY = 10


class Folders:
    """Saved jobs of the work directory; each folder is read once.

    Args:
        known: jobs that need no folder, by id.
    """

    def __init__(self, known: Iterable[SavedJob] = ()) -> None:
        self._jobs: dict[str, SavedJob | None] = {job.job_id: job for job in known}

    def find(self, job_id: str) -> SavedJob | None:
        """Return the job of an id; None if its folder is not there or cannot be read."""
        if job_id not in self._jobs:
            try:
                self._jobs[job_id] = read_saved_job(os.path.join(gs.WORK_DIR, job_id), job_id)
            except (JobDirError, OSError) as error:
                logging.debug("%s", error)
                self._jobs[job_id] = None
        return self._jobs[job_id]


def ids_of_class(class_name: str) -> list[str]:
    """Return the ids of all folders of a class, the newest first; not those that were moved aside."""
    pattern = os.path.join(glob.escape(os.path.join(gs.WORK_DIR, class_name)) + ".*")
    folders = [path for path in glob.glob(pattern) if not is_aside(path) and looks_like_job(path)]
    folders.sort(key=lambda path: (-os.stat(path).st_mtime, path))
    return [os.path.relpath(path, gs.WORK_DIR) for path in folders]


def closest(job: SavedJob, folders: Folders) -> tuple[SavedJob | None, int]:
    """Return the saved job of the same class and another id that is most like a job.

    That is one with an alias in common, else one that differs in the fewest arguments; of several, one with
    the fewest differences in all of its ancestry, the newest of those.

    Returns:
        That job, or None; and how many others there are.
    """
    ids = [job_id for job_id in ids_of_class(class_of(job.job_id)) if job_id != job.job_id]
    others = [other for other in map(folders.find, ids[:MOST_COMPARED]) if other is not None]
    distances = [(not job.aliases & other.aliases, _num_different(job, other)) for other in others]
    best = min(distances, default=None)
    alike = [other for other, distance in zip(others, distances, strict=True) if distance == best]
    if len(alike) > 1:
        alike = alike[:_MOST_COMPARED_DEEPLY]
        alike.sort(key=lambda other: len(differences(other, job, folders.find)))
    return (alike[0] if alike else None), len(ids)


def _num_different(job: SavedJob, other: SavedJob) -> int:
    mine, theirs = job.counting, other.counting
    return sum(not mine.get(name, MISSING).is_like(theirs.get(name, MISSING)) for name in {*mine, *theirs})
