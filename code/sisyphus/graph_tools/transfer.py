"""Taking over finished job folders: copied, linked or moved, never half."""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Callable

from sisyphus.job_dir import JobDir


def _link_or_copy(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except FileExistsError:
        raise
    except OSError:  # another disk, or one without hard links
        shutil.copy2(source, target)


def _copy_tree(source: str, target: str) -> None:
    # links stay links: those in input/ lead to whole other jobs
    shutil.copytree(source, target, symlinks=True)


def _hard_link_tree(source: str, target: str) -> None:
    shutil.copytree(source, target, symlinks=True, copy_function=_link_or_copy)


def _link(source: str, target: str) -> None:
    os.symlink(os.path.realpath(source), target)


def _move(source: str, target: str) -> None:
    shutil.move(source, target)


def _move_and_link(source: str, target: str) -> None:
    shutil.move(source, target)
    os.symlink(os.path.realpath(target), source)


def _hard_link_or_link(source: str, target: str) -> None:
    if os.stat(source).st_dev == os.stat(os.path.dirname(target)).st_dev:
        _hard_link_tree(source, target)
    else:
        _link(source, target)


TRANSFERS: dict[str, Callable[[str, str], None]] = {
    "copy": _copy_tree,
    "hardlink": _hard_link_tree,
    "hardlink_or_copy": _hard_link_tree,
    "hardlink_or_link": _hard_link_or_link,
    "link": _link,
    "move": _move,
    "move_and_link": _move_and_link,
    "symlink": _link,
}
"""How a folder can be taken over, by mode. Files that the disk does not allow to hard-link are copied."""

MODES = ("dryrun", *TRANSFERS)
"""All modes; ``dryrun`` only says what would be done."""


def transfer(source: str, target: str, mode: str) -> bool:
    """Make ``target`` what ``source`` is, a finished job.

    Args:
        source: a finished job folder, or a link to one.
        target: must not exist; a link that leads nowhere is replaced.
        mode: one of ``MODES``.

    Returns:
        Whether something was done. What cannot be done only warns: the job is computed then.
    """
    logging.info("%s: %s -> %s", mode, source, target)
    if mode == "dryrun":
        return False
    aside = f"{target}.import.{os.getpid()}"
    try:
        os.makedirs(os.path.dirname(target), exist_ok=True)
        if os.path.islink(target) and not os.path.exists(target):
            os.unlink(target)
        if mode in ("move", "move_and_link"):  # one rename, on one disk
            TRANSFERS[mode](os.path.abspath(source), target)
            return True
        TRANSFERS[mode](os.path.abspath(source), aside)
        os.rename(aside, target)
    except OSError as error:
        logging.warning("Cannot %s %s to %s: %s", mode, source, target, error)
        if os.path.lexists(aside):
            JobDir(aside).delete()
        return False
    return True


def can_take_over(target: str) -> bool:
    """Whether there is room for a folder: nothing, or a link that leads nowhere."""
    return not os.path.exists(target)
