"""Outputs that appear complete or not at all: written beside their place, then renamed."""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from merging.errors import DiskSpaceError


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
        for file in temporary.rglob("*"):  # safetensors makes private files
            if file.is_file():
                file.chmod(0o666 & ~_umask())
        if out.exists():
            shutil.rmtree(out)
        temporary.rename(out)
    except BaseException as error:
        shutil.rmtree(temporary, ignore_errors=True)
        if is_disk_full(error):
            raise DiskSpaceError(
                f"no room left on the disk of {out}. What stood there is untouched; "
                "free some space and run again."
            ) from error
        raise


def is_disk_full(error: BaseException) -> bool:
    """Whether an error says so; libraries in Rust have their own, whose text ends in the system's number."""
    return getattr(error, "errno", None) == errno.ENOSPC or f"(os error {errno.ENOSPC})" in str(error)


def _umask() -> int:
    """The umask of this process; it can only be read by setting it."""
    mask = os.umask(0o022)
    os.umask(mask)
    return mask
