"""Graphs of configs as they are, and as they were at some commit: each is built in a process of its own.

A commit is checked out into a temporary git worktree, which is removed again whatever happens.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import sisyphus
from sisyphus import global_settings as gs
from sisyphus.errors import SisyphusError
from sisyphus.explaining.snapshot import Snapshot, from_plain

_STDERR = 2
_PACKAGE_PARENT = os.path.dirname(os.path.dirname(os.path.abspath(sisyphus.__file__)))


def snapshots(builds: Sequence[tuple[str, str]]) -> list[Snapshot]:
    """Build graphs, side by side.

    Args:
        builds: pairs of project directory and config argument (empty: the default config).

    Raises:
        SisyphusError: one of them cannot be built.
    """
    with tempfile.TemporaryDirectory() as results:
        files = [os.path.join(results, f"{number}.json") for number in range(len(builds))]
        processes = [
            _start(directory, config, file) for (directory, config), file in zip(builds, files, strict=True)
        ]
        try:
            codes = [process.wait() for process in processes]
        finally:
            for process in processes:
                if process.poll() is None:
                    process.kill()
                    process.wait()
        for (directory, config), code in zip(builds, codes, strict=True):
            if code:
                raise SisyphusError(
                    f"the graph of {config or 'the default config'} in {directory} cannot be built."
                )
        return [_read(file) for file in files]


def _start(directory: str, config: str, file: str) -> subprocess.Popen[bytes]:
    path = os.pathsep.join(filter(None, [_PACKAGE_PARENT, os.environ.get("PYTHONPATH")]))
    return subprocess.Popen(
        [sys.executable, "-P", "-m", "sisyphus.explaining.snapshot_process", gs.BASE_DIR, file, config],
        cwd=directory,
        env={**os.environ, "PYTHONPATH": path},
        stdin=subprocess.DEVNULL,
        stdout=_STDERR,  # what configs print is no answer to the question
    )


def _read(file: str) -> Snapshot:
    with open(file, encoding="utf-8") as opened:
        return from_plain(json.load(opened))


@contextmanager
def checkout(revision: str) -> Iterator[str]:
    """Give a directory with the project as it was at a commit; it is removed at the end.

    What git does not know stays as it is now, by links: the work directory (results that configs read), and
    recipes that are repositories of their own.

    Args:
        revision: anything that git takes for a commit: a branch, a tag, ``HEAD~3``.

    Raises:
        SisyphusError: the project lies in no repository, or there is no such commit.
    """
    prefix = _git("rev-parse", "--show-prefix")
    commit = _git("rev-parse", "--verify", "--end-of-options", f"{revision}^{{commit}}")
    with tempfile.TemporaryDirectory(prefix="sis-diff-") as parent:
        tree = os.path.join(parent, "tree")
        try:
            _git("worktree", "add", "--detach", "--quiet", tree, commit)
            directory = os.path.normpath(os.path.join(tree, prefix))
            if not os.path.isdir(directory):
                raise SisyphusError(f"the directory {prefix} of this project does not exist at {revision}.")
            _link_what_git_does_not_know(directory)
            yield directory
        finally:
            if os.path.lexists(tree):
                _git("worktree", "remove", "--force", tree)


def _link_what_git_does_not_know(directory: str) -> None:
    places = [gs.WORK_DIR]
    for entry in sorted({entry.rstrip("/") for entry in gs.IMPORT_PATHS}):
        places.append(entry)
        if os.path.isdir(entry):
            below = (os.path.join(entry, name) for name in sorted(os.listdir(entry)))
            places += [place for place in below if os.path.lexists(os.path.join(place, ".git"))]
    for place in places:
        if os.path.isabs(place) or not os.path.exists(place):
            continue
        link = os.path.join(directory, place)
        if not os.path.lexists(link):
            os.makedirs(os.path.dirname(link), exist_ok=True)
            os.symlink(os.path.abspath(place), link)


def _git(*arguments: str) -> str:
    try:
        done = subprocess.run(
            ["git", "-C", gs.BASE_DIR, *arguments],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=True,
        )
    except FileNotFoundError as error:
        raise SisyphusError("--against needs git, which is not installed here.") from error
    except subprocess.CalledProcessError as error:
        raise SisyphusError(f"git {' '.join(arguments)}: {error.stderr.strip()}") from error
    return done.stdout.strip()
