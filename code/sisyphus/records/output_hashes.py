"""Hashes of what a job made: written when it finishes if the settings ask for them, compared by ``sis
verify``.

The file ``output.sha256`` in a job folder is what ``sha256sum`` writes and checks: ``HASH  output/PATH``, in
binary order of the paths.
"""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

from sisyphus import global_settings as gs
from sisyphus.atomic_files import write_atomically
from sisyphus.job_dir import JobDir, task_entry

if TYPE_CHECKING:
    from sisyphus.job import Job
    from sisyphus.task import Task

FILE = "output.sha256"


class Verdict(NamedTuple):
    """What became of one output since it was hashed."""

    path: str
    problem: str
    """``changed``, ``missing`` or ``new``."""


def hash_outputs(folder: JobDir) -> dict[str, str]:
    """Return the SHA-256 of every file below ``output/``, by path relative to the job folder.

    A link is hashed as what it leads to; one that leads nowhere is left out.
    """
    return {path: _sha256(folder.entry(path)) for path in _output_files(folder)}


def write_hashes(folder: JobDir) -> None:
    """Hash all outputs, and note the hashes in the job folder."""
    lines = (f"{digest}  {path}\n" for path, digest in hash_outputs(folder).items())
    write_atomically(folder.entry(FILE), "".join(lines).encode("utf-8", "surrogateescape"))


def note_if_last(job: Job, task: Task, task_id: int, *, finished: bool) -> None:
    """Note the hashes if nothing of a job is left to run; to be called before and after the end is marked.

    Of tasks with several ids that end at the same moment, each may take another one for the last before they
    are marked; after that at least one of them sees that all are through.

    Args:
        job: the job.
        task: the task that is about to end.
        task_id: which id of it.
        finished: its finished marker is there.
    """
    names = job._sis_dir.names()
    ids = {(each.name(), number) for each in job._sis_tasks() for number in each.task_ids()}
    left = {
        (name, number) for name, number in ids if task_entry(gs.STATE_FINISHED, name, number) not in names
    }
    if left != (set() if finished else {(task.name(), task_id)}) or FILE in names:
        return
    try:
        write_hashes(job._sis_dir)
    except OSError as error:
        logging.warning("The hashes of the outputs are not noted: %s", error)


def read_hashes(folder: JobDir) -> dict[str, str] | None:
    """Return the hashes that were noted, by path; None if none were."""
    names = folder.names()
    if FILE in names:
        with open(folder.entry(FILE), "rb") as file:
            content = file.read()
    elif gs.JOB_FINISHED_ARCHIVE in names:
        packed = _from_archive(folder.entry(gs.JOB_FINISHED_ARCHIVE))
        if packed is None:
            return None
        content = packed
    else:
        return None
    lines = content.decode("utf-8", "surrogateescape").splitlines()
    return {path: digest for digest, _, path in (line.partition("  ") for line in lines)}


def verify(folder: JobDir) -> list[Verdict] | None:
    """Compare the outputs with their noted hashes; None if none were noted, empty if all is well."""
    noted = read_hashes(folder)
    if noted is None:
        return None
    there = set(_output_files(folder))
    problems = [Verdict(path, "new") for path in there - noted.keys()]
    for path, digest in noted.items():
        if path not in there:
            problems.append(Verdict(path, "missing"))
        elif _sha256(folder.entry(path)) != digest:
            problems.append(Verdict(path, "changed"))
    return sorted(problems)


def _output_files(folder: JobDir) -> Iterator[str]:
    top = folder.entry(gs.JOB_OUTPUT)
    found = []
    for directory, _, files in os.walk(top, followlinks=True):
        paths = (os.path.join(directory, name) for name in files)
        found += [os.path.relpath(path, folder.path) for path in paths if os.path.isfile(path)]
    yield from sorted(found)


def _sha256(path: str) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _from_archive(path: str) -> bytes | None:
    import tarfile  # takes longer than all else that a worker imports

    with tarfile.open(path) as archive:
        for member in archive:
            content = archive.extractfile(member) if member.name == FILE else None
            if content is not None:
                return content.read()
    return None
