"""What must hold after any sequence of faults."""

from __future__ import annotations

import ast
import gzip
import hashlib
import json
import os
import tarfile
from pathlib import Path

from project import Project

Outputs = dict[str, str]
"""File below ``work`` or ``output`` to the hash of its content, or the place that it links to."""


def outputs_of(project: Project) -> Outputs:
    """All that the graph made: the outputs of each job, and the links to them."""
    found: Outputs = {}
    for folder in sorted((project.path / "work/jobs").glob("*")):
        if ".cleared." in folder.name:
            continue
        for file in sorted((folder / "output").rglob("*")):
            if file.is_file():
                name = str(file.relative_to(project.path))
                found[name] = hashlib.sha256(file.read_bytes()).hexdigest()
    for link in sorted((project.path / "output").rglob("*")):
        if link.is_symlink():
            found[str(link.relative_to(project.path))] = os.path.relpath(
                link.resolve(), project.path.resolve()
            )
    return found


def differences(expected: Outputs, found: Outputs) -> list[str]:
    names = sorted({*expected, *found})
    return [
        f"output {name} is not as it should be" for name in names if expected.get(name) != found.get(name)
    ]


def violations(project: Project) -> list[str]:
    """What jobs noticed: a second process at the same task, or a task that was finished before."""
    return [" ".join(words) for words in project.lines() if words[0] in ("OVERLAP", "REPEAT")]


def half_written(project: Project) -> list[str]:
    """Files that some process would stumble over."""
    bad = []
    for file in sorted((project.path / "work").rglob("*")):
        if (
            file.is_symlink()
            or not file.is_file()
            or ".cleared." in str(file)
            or file.name.startswith(".job")
        ):
            continue
        try:
            _check(file)
        except (OSError, EOFError, ValueError, SyntaxError, tarfile.TarError) as error:
            bad.append(f"{file.relative_to(project.path)}: {error!r}")
    return bad


def _check(file: Path) -> None:
    """Read a file as those do who need it.

    Raises:
        OSError, EOFError, ValueError, SyntaxError, tarfile.TarError: it is not whole.
    """
    name = file.name
    if name.startswith(".") and name.endswith(".tmp"):
        return  # what a killed process was about to write: nobody looks at it
    if name == "job.save":
        gzip.decompress(file.read_bytes())
    elif name.startswith(("usage.", "local.")):
        if not isinstance(ast.literal_eval(file.read_text()), dict):
            raise ValueError("no dict")
    elif name.startswith("submit_log."):
        for line in file.read_text().splitlines():
            ast.literal_eval(line)
    elif name == "finished.tar.gz":
        with tarfile.open(file) as archive:
            if "job.save" not in archive.getnames():
                raise ValueError("no job.save in it")
    elif name.startswith(("finished", "error.")) and file.stat().st_size:
        raise ValueError("a marker with content")
    elif name == ".manager.json":
        json.loads(file.read_text())
