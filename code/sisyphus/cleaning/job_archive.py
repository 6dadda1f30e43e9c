"""Cleaning one job folder: all but its outputs goes into one archive, which then marks the job as finished.

A kill at any moment leaves a folder that still counts as finished and has lost nothing: the archive is
written under another name, put in place complete, and only then is removed what it holds. The next cleaning
completes a removal that was cut short. Whatever changed after it was packed is kept.
"""

from __future__ import annotations

import errno
import os
import shutil
import stat
import tarfile
from collections.abc import Iterator, Mapping

from sisyphus import global_settings as gs
from sisyphus.job_dir import JobDir

_NO_HARD_LINKS = frozenset({errno.EPERM, errno.ENOTSUP, errno.EMLINK, errno.ENOSYS})


def is_clean(folder: JobDir, *, keep_work: bool, keep_input: bool) -> bool:
    """Whether nothing is left to pack or to remove, judged by names alone."""
    names = folder.names()
    return gs.JOB_FINISHED_ARCHIVE in names and names <= _kept_names(keep_work, keep_input)


def clean(folder: JobDir, *, keep_work: bool, keep_input: bool) -> None:
    """Pack and remove; or complete what an earlier call began.

    Args:
        folder: of a finished job.
        keep_work: leave ``work/`` alone; otherwise it is removed, not packed.
        keep_input: leave ``input/`` alone; otherwise it is packed.

    Raises:
        OSError: something could not be read, written or removed; nothing is lost then.
    """
    kept = _kept_names(keep_work, keep_input) | {gs.JOB_WORK_DIR}
    archive = folder.entry(gs.JOB_FINISHED_ARCHIVE)
    if not os.path.isfile(archive):
        _pack(folder, [name for name in sorted(folder.names() - kept) if not _is_unfinished_archive(name)])
    _remove_packed(folder, kept)
    if not keep_work:
        _remove_tree(folder.entry(gs.JOB_WORK_DIR))


def _kept_names(keep_work: bool, keep_input: bool) -> frozenset[str]:
    kept = {gs.JOB_OUTPUT, gs.JOB_INFO, gs.JOB_FINISHED_ARCHIVE}
    kept |= {gs.JOB_WORK_DIR} if keep_work else set()
    kept |= {gs.JOB_INPUT} if keep_input else set()
    return frozenset(kept)


def _is_unfinished_archive(name: str) -> bool:
    return name.startswith(f".{gs.JOB_FINISHED_ARCHIVE}.")


def _pack(folder: JobDir, names: list[str]) -> None:
    temporary = folder.entry(f".{gs.JOB_FINISHED_ARCHIVE}.{os.getpid()}")
    try:
        with open(temporary, "wb") as file:
            with tarfile.open(fileobj=file, mode="w:gz", compresslevel=6) as archive:
                for name in names:
                    archive.add(folder.entry(name), arcname=name)
            file.flush()
            os.fsync(file.fileno())  # what it holds is removed next: it must survive a crash of the machine
        _put_in_place(temporary, folder.entry(gs.JOB_FINISHED_ARCHIVE))
    finally:
        if os.path.lexists(temporary):
            os.unlink(temporary)


def _put_in_place(temporary: str, archive: str) -> None:
    """Name the archive, unless another process was faster: ours may lack what that one removed already."""
    try:
        os.link(temporary, archive)
    except FileExistsError:
        return
    except OSError as error:
        if error.errno not in _NO_HARD_LINKS:
            raise
        if not os.path.exists(archive):
            os.rename(temporary, archive)


def _remove_packed(folder: JobDir, kept: frozenset[str]) -> None:
    """Remove the files that are in the archive as they are on disk, and the directories that this empties."""
    names = folder.names() - kept
    for name in [name for name in names if _is_unfinished_archive(name)]:
        os.unlink(folder.entry(name))  # of a cleaning that was killed
    entries = [entry for name in sorted(names) for entry in _walk(folder.path, name)]
    if not entries:
        return
    with tarfile.open(folder.entry(gs.JOB_FINISHED_ARCHIVE)) as archive:
        packed = {os.path.normpath(member.name): member for member in archive}
    for entry in entries:
        path = folder.entry(entry)
        if os.path.isdir(path) and not os.path.islink(path):
            if not os.listdir(path):
                os.rmdir(path)
        elif entry in packed and _is_same(path, packed[entry], packed):
            os.unlink(path)


def _walk(top: str, name: str) -> Iterator[str]:
    """Everything below and including ``name``, relative to ``top``, contents before their directory."""
    path = os.path.join(top, name)
    if os.path.isdir(path) and not os.path.islink(path):
        for below in sorted(os.listdir(path)):
            yield from _walk(top, os.path.join(name, below))
    if not _is_unfinished_archive(name):
        yield name


def _is_same(path: str, member: tarfile.TarInfo, packed: Mapping[str, tarfile.TarInfo]) -> bool:
    """Whether a file did not change since it was packed."""
    status = os.lstat(path)
    if member.issym():
        return stat.S_ISLNK(status.st_mode) and os.readlink(path) == member.linkname
    if not stat.S_ISREG(status.st_mode) or abs(status.st_mtime - member.mtime) >= 1:
        return False
    content = packed[os.path.normpath(member.linkname)] if member.islnk() else member
    return status.st_size == content.size


def _remove_tree(path: str) -> None:
    if os.path.islink(path):
        os.unlink(path)
    elif os.path.exists(path):
        shutil.rmtree(path)
