"""Outputs that appear complete or not at all: written beside their place, then renamed."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def published_folder(out: str | os.PathLike[str]) -> Iterator[Path]:
    """Give a temporary sibling of ``out`` to write into; it becomes ``out`` when the block ends well.

    A folder that stands at ``out`` is replaced only then (a manager makes output folders in advance, and an
    interrupted run may have left an older result). If the block raises, nothing is left behind; if the
    process is killed, only a hidden folder ``.<name>.<random>`` is.

    Yields:
        The folder to write into, on the same file system as ``out``.
    """
    out = Path(out).resolve()
    out.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=out.parent))
    try:
        temporary.chmod(0o777 & ~_umask())  # mkdtemp makes private folders; outputs are for the team
        yield temporary
        if out.exists():
            shutil.rmtree(out)
        temporary.rename(out)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def _umask() -> int:
    """The umask of this process; it can only be read by setting it."""
    mask = os.umask(0o022)
    os.umask(mask)
    return mask
