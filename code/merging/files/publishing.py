"""Outputs that appear complete or not at all: written beside their place, then renamed."""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from merging.errors import DiskSpaceError, OptionError
from merging.files.journal import Journal


@contextmanager
def published_folder(out: str | os.PathLike[str]) -> Iterator[Path]:
    """Give a temporary sibling of ``out`` to write into; it becomes ``out`` when the block ends well.

    A folder that stands at ``out`` is replaced only then (a manager makes output folders in advance, and an
    interrupted run may have left an older result). If the block raises, nothing is left behind; if the
    process is killed, only a hidden folder ``.<name>.<random>`` is.

    Raises:
        DiskSpaceError: the disk filled up inside the block.

    Yields:
        The folder to write into, on the same file system as ``out``.
    """
    out = Path(out).resolve()
    out.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=out.parent))
    try:
        temporary.chmod(0o777 & ~_umask())  # mkdtemp makes private folders; outputs are for the team
        yield temporary
        _publish(temporary, out)
    except BaseException as error:
        shutil.rmtree(temporary, ignore_errors=True)
        _raise_if_disk_full(error, out)
        raise


@contextmanager
def resumable_folder(out: str | os.PathLike[str], key: str) -> Iterator[Journal]:
    """As ``published_folder``; but what was complete when the process was killed is used again.

    The folder is ``.<name>.partial`` beside ``out``. It is kept after a kill, after Ctrl-C and where the disk
    became full, if a file in it is complete; any other error removes it.

    Args:
        out: the folder to make.
        key: names the work (:func:`merging.files.journal.key_of`); leftovers of another are discarded.

    Raises:
        OptionError: another process is at it.
        DiskSpaceError: the disk filled up inside the block.

    Yields:
        The journal of the folder to write into.
    """
    out = Path(out).resolve()
    out.parent.mkdir(parents=True, exist_ok=True)
    folder = out.parent / f".{out.name}.partial"
    with _locked(folder, out):
        journal = Journal(folder, key)
        try:
            yield journal
            journal.remove()
            _publish(folder, out)
        except BaseException as error:
            may_go_on = is_disk_full(error) or not isinstance(error, Exception)
            if journal.is_empty or not (may_go_on or isinstance(error, DiskSpaceError)):
                shutil.rmtree(folder, ignore_errors=True)
            _raise_if_disk_full(error, out)
            raise


@contextmanager
def _locked(folder: Path, out: Path) -> Iterator[None]:
    """Make a folder that belongs to this process until the block ends, wherever it is moved."""
    while True:
        folder.mkdir(exist_ok=True)
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise OptionError(
                    f"another process is writing {out}. Wait until it has ended, or choose another folder."
                ) from error
            if not folder.exists() or folder.stat().st_ino != os.fstat(descriptor).st_ino:
                continue  # who held it has just published it
            yield
            return
        finally:
            os.close(descriptor)


def _publish(temporary: Path, out: Path) -> None:
    for file in temporary.rglob("*"):  # safetensors makes private files
        if file.is_file():
            file.chmod(0o666 & ~_umask())
    if out.exists():
        shutil.rmtree(out)
    temporary.rename(out)


def _raise_if_disk_full(error: BaseException, out: Path) -> None:
    if is_disk_full(error):
        raise DiskSpaceError(
            f"no room left on the disk of {out}. What stood there is untouched; "
            "free some space and run again."
        ) from error


def is_disk_full(error: BaseException) -> bool:
    """Whether an error says so; libraries in Rust have their own, whose text ends in the system's number."""
    return getattr(error, "errno", None) == errno.ENOSPC or f"(os error {errno.ENOSPC})" in str(error)


def _umask() -> int:
    """The umask of this process; it can only be read by setting it."""
    mask = os.umask(0o022)
    os.umask(mask)
    return mask
