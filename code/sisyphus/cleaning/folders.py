"""The job folders of the work directory: which there are, what they take on disk, and who uses whom."""

from __future__ import annotations

import glob
import os
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from sisyphus import global_settings as gs
from sisyphus.job_dir import JobDir, is_aside, looks_like_job, task_entry
from sisyphus.running import usage


@dataclass(frozen=True)
class JobFolder:
    """One job folder."""

    path: str
    """Relative to the project."""
    imported: bool
    """It is a link: what it leads to belongs to somebody else."""

    @property
    def job_id(self) -> str:
        """Its path in the work directory; of one that was moved aside with what was appended then."""
        return os.path.relpath(self.path, gs.WORK_DIR)

    @property
    def dir(self) -> JobDir:
        """What knows its files."""
        return JobDir(self.path)

    def age_s(self, now: float | None = None) -> float:
        """Return the seconds since it finished, or, if it did not, since something was made in it."""
        for name in (gs.JOB_FINISHED_MARKER, gs.JOB_FINISHED_ARCHIVE, ""):
            try:
                changed = os.stat(os.path.join(self.path, name)).st_mtime
            except FileNotFoundError:
                continue
            return (time.time() if now is None else now) - changed
        return 0.0


def job_folders(*, aside: bool = False) -> Iterator[JobFolder]:
    """Yield all job folders of the work directory, sorted by path.

    Only what looks like a job folder counts; other files and links to other directories are passed over.

    Args:
        aside: also those that were moved aside, e.g. ``.cleared.0001``.
    """
    yield from _below(gs.WORK_DIR, aside)


def _below(directory: str, aside: bool) -> Iterator[JobFolder]:
    try:
        entries = sorted(os.scandir(directory), key=lambda entry: entry.name)
    except FileNotFoundError:
        return
    for entry in entries:
        if not entry.is_dir():
            continue
        if "." in entry.name and looks_like_job(entry.path):
            if aside or not is_aside(entry.path):
                yield JobFolder(entry.path, entry.is_symlink())
        elif not entry.is_symlink() and not is_aside(entry.path):
            yield from _below(entry.path, aside)


def is_running(folder: JobDir) -> bool:
    """Whether a task of a job runs on this machine, or has written its usage file lately on another one."""
    prefix = f"{gs.PLOGGING_FILE}."
    for name in folder.names():
        task, _, number = name.removeprefix(prefix).rpartition(".")
        if not name.startswith(prefix) or not number.isdecimal():
            continue
        if _ended(folder, task, int(number)):
            continue
        used = usage.read(folder.entry(name))
        if used is None:
            continue
        if usage.is_alive(used, job_dir=folder.path, task_name=task):
            return True
        silence_s = time.time() - os.stat(folder.entry(name)).st_mtime
        if not usage.is_local(used) and silence_s < 2 * gs.PLOGGING_UPDATE_FILE_PERIOD:
            return True
    return False


def _ended(folder: JobDir, task: str, number: int) -> bool:
    names = folder.names()
    return any(task_entry(kind, task, number) in names for kind in (gs.STATE_FINISHED, gs.STATE_ERROR))


def users(folders: Iterable[JobFolder]) -> Mapping[str, list[JobFolder]]:
    """Return which of these folders take an output of a job, by the real path of that job's folder."""
    found: dict[str, list[JobFolder]] = {}
    for folder in folders:
        for link in glob.glob(os.path.join(glob.escape(folder.dir.entry(gs.JOB_INPUT)), "*")):
            found.setdefault(os.path.realpath(link), []).append(folder)
    return found
