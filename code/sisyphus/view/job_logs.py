"""The logs of a job, also after cleaning has packed them."""

from __future__ import annotations

import io
import os
import tarfile
from typing import IO

from sisyphus import global_settings as gs
from sisyphus.job_dir import JobDir

_PREFIX = f"{gs.JOB_LOG}."


def names(folder: JobDir) -> list[str]:
    """Return the names of all logs of a job, those that were written to last at the end."""
    inside = folder.names()
    found = [(os.stat(folder.entry(name)).st_mtime, name) for name in inside if name.startswith(_PREFIX)]
    if gs.JOB_FINISHED_ARCHIVE in inside:
        with tarfile.open(folder.entry(gs.JOB_FINISHED_ARCHIVE)) as archive:
            found += [
                (member.mtime, member.name)
                for member in archive
                if member.name.startswith(_PREFIX) and member.name not in inside
            ]
    return [name for _, name in sorted(found)]


def read(folder: JobDir, name: str) -> bytes:
    """Return the content of a log.

    Args:
        folder: of the job.
        name: one of :func:`names`.
    """
    return _end(_open(folder, name), None)[0]


def tail(folder: JobDir, name: str, max_bytes: int) -> tuple[bytes, int]:
    """Return the end of a log, and how many bytes it has in all.

    Args:
        folder: of the job.
        name: one of :func:`names`.
        max_bytes: how much of it at most.
    """
    return _end(_open(folder, name), max_bytes)


def _open(folder: JobDir, name: str) -> IO[bytes]:
    if name in folder.names():
        return open(folder.entry(name), "rb")
    with tarfile.open(folder.entry(gs.JOB_FINISHED_ARCHIVE)) as archive:
        content = archive.extractfile(name)
        return io.BytesIO(b"" if content is None else content.read())


def _end(file: IO[bytes], max_bytes: int | None) -> tuple[bytes, int]:
    with file:
        size = file.seek(0, os.SEEK_END)
        file.seek(0 if max_bytes is None else max(0, size - max_bytes))
        return file.read(), size
