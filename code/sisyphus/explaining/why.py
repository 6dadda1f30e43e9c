"""Why a job has the id it has: its arguments, and how they differ from those of another job of the class."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from typing import Any

from sisyphus.errors import JobDirError, SisyphusError
from sisyphus.explaining.described import Node
from sisyphus.explaining.differences import Difference, differences
from sisyphus.explaining.identity import left_out_of_id
from sisyphus.explaining.saved_jobs import SavedJob, class_of, read_saved_job, save_in_memory
from sisyphus.explaining.siblings import Folders, closest
from sisyphus.graph import dependencies_first
from sisyphus.job import Job
from sisyphus.job_dir import JobDir

_NO_LOCK = nullcontext()
_WIDTH = 100
"""Letters of a value that are put on one line if it has parts."""


@dataclass(frozen=True)
class Explanation:
    """What makes the id of a job."""

    job: SavedJob
    left_out: frozenset[str] = frozenset()
    """Arguments that do not enter the id."""
    other: SavedJob | None = None
    """The job that it is compared with."""
    num_others: int = 0
    """Folders among which ``other`` is the closest one; 0 if it was asked for."""
    differences: Sequence[Difference] = field(default_factory=list)

    def as_json(self) -> dict[str, Any]:
        """Return it as dicts, lists, texts and numbers."""
        return {
            "job": self.job.job_id,
            "commit": self.job.commit,
            "version": self.job.version,
            "arguments": {name: node.as_json() for name, node in self.job.arguments.items()},
            "left_out": sorted(self.left_out),
            "other": None if self.other is None else self.other.job_id,
            "differences": [
                {
                    "where": difference.where,
                    "old": difference.old,
                    "new": difference.new,
                    "chain": [list(pair) for pair in difference.chain],
                }
                for difference in self.differences
            ],
        }


@dataclass(frozen=True)
class Asked:
    """A job, of the loaded configs or known by its folder alone."""

    job_id: str
    folder: JobDir
    job: Job | None = None

    def saved(self) -> tuple[SavedJob, list[SavedJob]]:
        """Return what it is made from, and all jobs of its graph as far as they are known without a folder.

        Raises:
            JobDirError: it is known by its folder alone, and that does not say.
        """
        if self.job is None:
            return read_saved_job(self.folder.path, self.job_id), []
        ancestors = [save_in_memory(job) for job in dependencies_first([self.job])]
        job = ancestors[-1]
        if self.folder.exists():  # the code that it was made with is not that of now
            job = replace(job, commit=self._commit_of_folder())
        return job, ancestors

    def _commit_of_folder(self) -> str:
        try:
            return read_saved_job(self.folder.path, self.job_id).commit
        except JobDirError:  # nothing is saved in it, e.g. because it was made only to hold the job
            return ""


def explain(
    asked: Asked, other: Asked | None = None, *, lock: AbstractContextManager[Any] = _NO_LOCK
) -> Explanation:
    """Explain the id of a job.

    Args:
        asked: the job.
        other: compare with this one; default: the closest folder of the same class.
        lock: held while jobs of this process are read; not while folders are, which may take seconds.

    Raises:
        JobDirError: a folder does not say what it was made from.
        SisyphusError: the two are of different classes.
    """
    with lock:
        job, known = asked.saved()
        left_out = left_out_of_id(asked.job) if asked.job is not None else frozenset()
    folders = Folders(known)
    num_others = 0
    compared: SavedJob | None
    if other is None:
        compared, num_others = closest(job, folders)
    else:
        compared = other.saved()[0]
        if class_of(compared.job_id) != class_of(job.job_id):
            raise SisyphusError(
                f"{job.job_id} and {compared.job_id} are of different classes, so their ids have nothing in "
                f"common."
            )
    found = [] if compared is None else differences(compared, job, folders.find)
    return Explanation(job, left_out, compared, num_others, found)


def lines_of(place: str, node: Node) -> Iterator[tuple[str, str]]:
    """Yield a value as one line, or if that gets long, each of its parts as a line of its own.

    Returns:
        Place and text of each line.
    """
    text = str(node)
    if len(text) <= _WIDTH or not node.parts:
        yield place, text
        return
    for label, part in node.parts.items():
        yield from lines_of(f"{place}{label}", part)
