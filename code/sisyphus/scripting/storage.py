"""Objects on disk for the console: ``tk.dump``, ``tk.load_file``, ``tk.load_job``, ``tk.mktemp``."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from sisyphus import global_settings as gs
from sisyphus.atomic_files import write_atomically
from sisyphus.job_dir import read_save

if TYPE_CHECKING:
    from sisyphus.job import Job

_GZIP_MAGIC = b"\x1f\x8b"


def dump(obj: Any, filename: str) -> None:
    """Write any object, with all jobs that it needs, as a compressed pickle."""
    import gzip
    import pickle

    before = gs.INCLUDE_CREATOR_STATE
    gs.INCLUDE_CREATOR_STATE = True
    try:
        content = pickle.dumps(obj)
    finally:
        gs.INCLUDE_CREATOR_STATE = before
    write_atomically(os.fspath(filename), gzip.compress(content, compresslevel=1))


def load_file(path: str) -> Any:
    """Read what ``dump`` wrote; also reads pickles that are not compressed."""
    import gzip
    import pickle

    with gzip.open(path, "rb") if zipped(path) else open(path, "rb") as file:
        return pickle.load(file)


def zipped(filename: Any) -> bool:
    """Whether a file is compressed with gzip."""
    with open(filename, "rb") as file:
        return file.read(2) == _GZIP_MAGIC


def load_job(path: str) -> Job:
    """Return the job of a job folder, of a ``job.save`` file, or of a ``finished.tar.gz``.

    Raises:
        JobDirError: if there is none, or if it is damaged.
    """
    job: Job = read_save(os.fspath(path))
    return job


@contextmanager
def mktemp() -> Iterator[str]:
    """Give a path that is not in use; what was made there is removed at the end."""
    import shutil
    import tempfile

    # a directory of our own makes the name inside it ours, too
    directory = tempfile.mkdtemp(prefix=os.path.basename(gs.TMP_PREFIX), dir=os.path.dirname(gs.TMP_PREFIX))
    os.rmdir(directory)
    try:
        yield directory
    finally:
        if os.path.isdir(directory) and not os.path.islink(directory):
            shutil.rmtree(directory)
        elif os.path.lexists(directory):
            os.unlink(directory)
