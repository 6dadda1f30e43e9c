"""Which code made a job: the commit of the repository that its recipe lies in, and whether that was changed.

Git is asked once in each process and repository, when the first job is set up; workers find the answer in the
saved job.
"""

from __future__ import annotations

import logging
import os
import sys
from functools import cache
from typing import Any

from sisyphus import global_settings as gs

_PATIENCE_S = 10.0
"""A repository on a slow disk must not hold up the jobs for longer."""


def made_with(job: Any) -> dict[str, Any]:
    """Return what is saved with a job.

    Returns:
        ``version`` (``__sis_version__`` as text, left out if None); where git knows: ``repository`` (relative
        to the project), ``commit``, ``dirty`` (files that git knows differ from the commit, or there are new
        ones).
    """
    version = type(job).__sis_version__
    made = {} if version is None else {"version": repr(version)}
    return {**made, **_of_module(type(job).__module__)}


@cache
def _of_module(name: str) -> dict[str, Any]:
    file = getattr(sys.modules.get(name), "__file__", None)
    repository = _repository_of(os.path.dirname(os.path.realpath(file))) if file else None
    return {} if repository is None else _state_of(repository)


@cache
def _repository_of(directory: str) -> str | None:
    """The directory above that has a ``.git``."""
    if os.path.lexists(os.path.join(directory, ".git")):
        return directory
    above = os.path.dirname(directory)
    return None if above == directory else _repository_of(above)


@cache
def _state_of(repository: str) -> dict[str, Any]:
    import subprocess  # not in workers, which start with this module

    call = ["git", "-C", repository, "--no-optional-locks", "status", "--porcelain=v2", "--branch"]
    try:
        lines = _ask([*call, "--untracked-files=normal"]).splitlines()
    except (OSError, subprocess.SubprocessError) as error:
        logging.debug("git says nothing of %s: %s", repository, error)
        return {}
    commits = [line.split()[-1] for line in lines if line.startswith("# branch.oid")]
    return {
        "repository": os.path.relpath(repository, os.path.realpath(gs.BASE_DIR)),
        "commit": commits[0] if commits else "",
        "dirty": any(_counts(line, repository) for line in lines),
    }


def _counts(line: str, repository: str) -> bool:
    """Whether a line of git's answer is a change; new files only where recipes and configs lie."""
    if not line.startswith("? "):
        return not line.startswith("#")
    path = os.path.join(repository, line[2:])
    if "__pycache__" in path.split(os.sep):
        return False
    places = (os.path.realpath(entry) for entry in gs.IMPORT_PATHS)
    return any(_lies_in(path, place) or _lies_in(place, os.path.normpath(path)) for place in places)


def _ask(call: list[str]) -> str:
    import subprocess

    return subprocess.run(
        call, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=True, timeout=_PATIENCE_S
    ).stdout


def _lies_in(path: str, directory: str) -> bool:
    return os.path.commonpath([path, directory]) == directory
