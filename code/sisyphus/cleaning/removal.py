"""Removing job folders: sizes, a listing, a question, and only then the removal."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterable

from sisyphus import global_settings as gs
from sisyphus.errors import SisyphusError
from sisyphus.job_dir import JobDir
from sisyphus.terminal.prompts import ask

Filter = Callable[[str], bool]
"""Function of a path that says whether it is meant."""

MODES = ("remove", "move", "dryrun")


def check_mode(mode: str, known: Iterable[str] = MODES) -> None:
    """Refuse a mode that does not exist.

    Raises:
        SisyphusError: it is not among the known ones.
    """
    if mode not in known:
        raise SisyphusError(f"unknown mode {mode!r}. Known: {', '.join(known)}.")


def remove_directories(
    dirs: Iterable[str],
    message: str = "",
    move_postfix: str = ".cleanup",
    mode: str = "remove",
    force: bool = False,
    filter_printed: Filter | None = None,
) -> list[str]:
    """Remove job folders, after saying how much they hold and asking. Of linked folders only the link goes.

    Args:
        dirs: folders, relative to the project or absolute; those that are gone already are skipped.
        message: why they are to be removed, e.g. ``not used``.
        move_postfix: for mode ``move``: text appended to their names.
        mode: ``remove``, ``move``, or ``dryrun``: ask and list, but remove nothing.
        force: remove without asking.
        filter_printed: function of a path; only those it is true for are listed.

    Returns:
        The folders that were removed or moved.

    Raises:
        SisyphusError: the mode is unknown.
    """
    check_mode(mode)
    folders = [path for path in sorted(set(dirs)) if os.path.lexists(path)]
    logging.info("%d job folders %s", len(folders), message)
    if not folders or not (force or _agreed(folders, mode, filter_printed)):
        return []
    if mode == "dryrun":
        logging.info("Nothing is removed: this is a dry run")
        return []
    return [path for path in folders if _removed(path, mode, move_postfix)]


def _agreed(folders: list[str], mode: str, filter_printed: Filter | None) -> bool:
    sizes: dict[str, int] = {}
    if ask("Calculate sizes of these folders? (Y/n) ", "n") in ("", "y", "yes"):
        sizes = {path: size_in_bytes(path) for path in folders}
        print(f"Size of all: {readable_size(sum(sizes.values()))}")  # noqa: T201 - answers the question
    if ask("List these folders? (Y/n) ", "n") in ("", "y", "yes"):
        aliases = _aliases() if gs.CLEANER_PRINT_ALIAS else {}
        for path in folders:
            if filter_printed is None or filter_printed(path):
                size = readable_size(sizes[path]) if path in sizes else ""
                names = " ".join(aliases.get(os.path.realpath(path), ()))
                print(" ".join(filter(None, (size, path, names))))  # noqa: T201 - answers the question
    question = {"remove": "Start deleting?", "move": "Start moving?", "dryrun": "Go on with the dry run?"}[
        mode
    ]
    return ask(f"{question} (y/N) ", "n") in ("y", "yes")


def _removed(path: str, mode: str, move_postfix: str) -> bool:
    try:
        if mode == "move":
            os.rename(path, path + move_postfix)
        else:
            JobDir(path).delete()
    except OSError as error:
        logging.warning("Cannot %s %s: %s", mode, path, error)
        return False
    return True


def _aliases() -> dict[str, list[str]]:
    """Links below ``alias/`` by the folder that they lead to."""
    found: dict[str, list[str]] = {}
    for directory, subdirs, files in os.walk(gs.ALIAS_DIR):
        for name in (*subdirs, *files):
            link = os.path.join(directory, name)
            if os.path.islink(link):
                found.setdefault(os.path.realpath(link), []).append(link)
    return found


def size_in_bytes(path: str) -> int:
    """What a folder takes on disk, as ``du`` sees it: links are not followed, hard links count once."""
    seen: set[tuple[int, int]] = set()
    total = os.lstat(path).st_blocks * 512
    for directory, subdirs, files in os.walk(path) if not os.path.islink(path) else ():
        for name in (*subdirs, *files):
            status = os.lstat(os.path.join(directory, name))
            if (status.st_dev, status.st_ino) not in seen:
                seen.add((status.st_dev, status.st_ino))
                total += status.st_blocks * 512
    return total


def readable_size(num_bytes: float) -> str:
    """A size as people write it, e.g. ``1.5G``."""
    for unit in ("", "K", "M", "G"):
        if num_bytes < 1024:
            return f"{num_bytes:.0f}{unit}" if not unit or num_bytes >= 10 else f"{num_bytes:.1f}{unit}"
        num_bytes /= 1024
    return f"{num_bytes:.1f}T"
