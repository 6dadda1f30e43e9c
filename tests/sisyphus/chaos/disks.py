"""Disks that get full and folders that cannot be written to, where this user may make such things."""

from __future__ import annotations

import os
import subprocess
import tempfile
from pathlib import Path


def _succeeds(*command: str) -> bool:
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


class SmallDisk:
    """A tmpfs on a folder.

    Args:
        folder: it is made.
        megabytes: its size.
    """

    def __init__(self, folder: Path, megabytes: int) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        options = f"size={megabytes}m,mode=755"
        self.is_there = _succeeds("mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder))
        self._filler = folder / "filler"

    def fill(self) -> None:
        """Leave not one byte."""
        with self._filler.open("ab", buffering=0) as file:
            for size in (1 << 20, 1 << 12, 1):
                try:
                    while file.write(bytes(size)) == size:
                        pass
                except OSError:  # full
                    continue

    def free(self) -> None:
        self._filler.unlink(missing_ok=True)

    def close(self) -> None:
        if self.is_there:
            subprocess.run(["umount", "--lazy", str(self.folder)], check=False)


def freeze_folder(folder: Path) -> bool:
    """Let nothing be made, renamed or removed in a folder, even by root; False if that is not possible."""
    return _succeeds("chattr", "+i", str(folder))


def thaw_folders(top: Path) -> None:
    """Take that back, for a folder and all below it."""
    _succeeds("chattr", "-R", "-i", str(top))


def can_mount() -> bool:
    if os.geteuid() != 0:
        return False
    with tempfile.TemporaryDirectory() as folder:
        disk = SmallDisk(Path(folder) / "disk", 1)
        disk.close()
        return disk.is_there


def can_freeze_folders(place: Path) -> bool:
    """Whether folders below ``place`` can be made read-only, by this user, in a way that binds it, too."""
    if os.geteuid() != 0:
        return False
    folder = place / "probe"
    folder.mkdir()
    try:
        return freeze_folder(folder)
    finally:
        thaw_folders(folder)
        folder.rmdir()
