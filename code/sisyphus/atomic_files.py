"""Files that are there as a whole or not at all, whatever is killed and however full the disk is."""

from __future__ import annotations

import errno
import os
from contextlib import suppress


def temporary_sibling(path: str) -> str:
    """Return the name under which a file is written before it gets its own: hidden, in the same directory."""
    directory, name = os.path.split(path)
    return os.path.join(directory, f".{name[:200]}.{os.getpid()}.tmp")


def write_atomically(path: str, content: bytes) -> None:
    """Write a file so that readers see the old content or the new one, never half of it.

    Raises:
        OSError: the disk is full, or the directory cannot be written to; nothing is left behind then.
    """
    temporary = temporary_sibling(path)
    try:
        with open(temporary, "wb") as file:
            file.write(content)
        os.replace(temporary, path)
    except OSError:
        remove_if_there(temporary)
        raise


def sync_tree(directory: str) -> None:
    """Have the system write a directory and everything below to the disk, so that it survives a power cut.

    Raises:
        OSError: something could not be written: what looked written was not.
    """
    for folder, _, names in os.walk(directory):
        for path in (*(os.path.join(folder, name) for name in names), folder):
            if os.path.islink(path):
                continue
            file = os.open(path, os.O_RDONLY)
            try:
                os.fsync(file)
            finally:
                os.close(file)


def link_atomically(target: str, link: str) -> None:
    """Make ``link`` a symbolic link to ``target``, replacing another link."""
    try:
        if os.readlink(link) == target:
            return
    except FileNotFoundError:
        with suppress(FileExistsError):  # another process was faster: replaced below
            os.symlink(target, link)
            return
    temporary = temporary_sibling(link)
    remove_if_there(temporary)  # of a killed process that had our number
    os.symlink(target, temporary)
    os.replace(temporary, link)


def append_line(path: str, text: str) -> None:
    """Append one line in one step; it begins a new line even where an earlier one was cut short.

    Raises:
        OSError: the disk is full, or the file cannot be written to; the file is as it was then.
    """
    file = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o666)
    try:
        size = os.fstat(file).st_size
        content = f"{text}\n".encode()
        if size and os.pread(file, 1, size - 1) != b"\n":
            content = b"\n" + content
        if os.write(file, content) < len(content):
            os.ftruncate(file, size)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), path)
    finally:
        os.close(file)


def remove_unfinished(directory: str, pid: int) -> None:
    """Remove what a killed process was about to write in a directory."""
    with suppress(FileNotFoundError, NotADirectoryError):
        for name in os.listdir(directory):
            if name.startswith(".") and name.endswith(f".{pid}.tmp"):
                remove_if_there(os.path.join(directory, name))


def remove_if_there(path: str) -> None:
    """Remove a file that may be gone already."""
    with suppress(FileNotFoundError):
        os.unlink(path)
