"""Taking over finished work after ids changed: jobs are found again by where they stand in the graph.

A line of the file is ``id path``; the path is an expression that leads from a registered output to the job::

    recipe/train/TrainJob.9fCuFCGNU1a0 output['table.md'].creator.cells['base'].creator
"""

from __future__ import annotations

import ast
import logging
import os
import re
import sys
from collections import deque
from collections.abc import Iterator
from typing import IO, Any

from sisyphus import global_settings as gs
from sisyphus.cleaning.removal import check_mode
from sisyphus.errors import SisyphusError
from sisyphus.graph import graph
from sisyphus.graph_tools.transfer import MODES, can_take_over, transfer
from sisyphus.hash import get_object_state
from sisyphus.job import Job
from sisyphus.job_dir import JobDir
from sisyphus.job_path import AbstractPath
from sisyphus.paths.extract import is_path

_ROOT = "output"
_BY_CREATOR = ".creator"
_LEAVES = (str, bytes, int, float, complex, type(None), type)
_KEYS = (str, bytes, int, type(None))
"""Keys of dicts that can be written down and read again."""
_STEP = re.compile(
    r"""\.(?P<name>\w+) | \[(?P<key> b?'(?:[^'\\]|\\.)*' | b?"(?:[^"\\]|\\.)*" | -?\w+ )\]""", re.VERBOSE
)


def export_graph(file: str | os.PathLike[str] | IO[str] | None = None) -> None:
    """Write which job stands where: a line ``id path`` for each job that attributes lead to from the outputs.

    Args:
        file: path or open text file; default: stdout.
    """
    lines = [f"{job._sis_id()} {path}\n" for job, path in _jobs_by_path()]
    if file is None:
        sys.stdout.writelines(lines)
    elif isinstance(file, (str, os.PathLike)):
        with open(file, "w", encoding="utf-8") as opened:
            opened.writelines(lines)
    else:
        file.writelines(lines)


def migrate_graph(
    input_file: str | os.PathLike[str] | IO[str] | None = None,
    work_source: str | None = None,
    mode: str = "dryrun",
) -> None:
    """Take over the finished folders of jobs that have other ids by now.

    Args:
        input_file: what :func:`export_graph` wrote for the old graph: path or open text file; default: stdin.
        work_source: the old work directory; default: that of this project.
        mode: ``dryrun``, ``link``, ``copy``, ``move``, ``move_and_link``, ``hardlink_or_copy`` or
            ``hardlink_or_link``.

    Raises:
        SisyphusError: the mode is unknown, or a line is no ``id path``.
    """
    check_mode(mode, MODES)
    work_source = gs.WORK_DIR if work_source is None else work_source
    known: dict[str, Any] = {_ROOT: graph.output}
    for number, line in enumerate(_lines(input_file), start=1):
        old_id, _, path = line.strip().partition(" ")
        if not path:
            raise SisyphusError(f"line {number} of the exported graph is not 'id path': {line.strip()!r}")
        job = _job_at(path, known)
        if job is None:
            logging.warning("The graph has no job any more at %s, %s is not taken over", path, old_id)
        elif job._sis_id() != old_id or work_source != gs.WORK_DIR:
            _take_over(os.path.join(work_source, old_id), job, mode)


def _take_over(source: str, job: Job, mode: str) -> None:
    if not JobDir(source).is_finished():
        logging.info("Not finished, not taken over: %s", source)
    elif not can_take_over(job._sis_path()):
        logging.info("Set up already: %s", job)
    else:
        transfer(source, job._sis_path(), mode)


def _lines(file: str | os.PathLike[str] | IO[str] | None) -> list[str]:
    if isinstance(file, (str, os.PathLike)):
        with open(file, encoding="utf-8") as opened:
            lines = opened.readlines()
    else:
        lines = list(sys.stdin if file is None else file)
    return [line for line in lines if line.strip()]


# --- from the graph to paths ---


def _jobs_by_path() -> Iterator[tuple[Job, str]]:
    """Each job once, by the shortest way that leads to it."""
    graph.update_nodes()
    seen: set[int] = set()
    kept: list[Any] = []  # states are made on the way; they must live as long as their ids count as seen
    waiting: deque[tuple[Any, str]] = deque()
    waiting.extend((value, f"{_ROOT}[{name!r}]") for name, value in graph.output.items())
    while waiting:
        obj, path = waiting.popleft()
        if isinstance(obj, _LEAVES) or id(obj) in seen:
            continue
        seen.add(id(obj))
        kept.append(obj)
        if isinstance(obj, Job):
            yield obj, path
        waiting.extend((part, path + step) for part, step in _parts(obj))


def _parts(obj: Any) -> Iterator[tuple[Any, str]]:
    """What an object holds, and how to get there from it. Elements of sets have no place of their own."""
    if isinstance(obj, Job):
        for name, value in vars(obj).items():
            if not name.startswith("_sis_"):
                yield value, f".{name}"
        yield obj._sis_kwargs, "._sis_kwargs"
    elif is_path(obj):
        yield obj.creator, _BY_CREATOR
    elif isinstance(obj, dict):
        for key, value in obj.items():
            if isinstance(key, _KEYS):
                yield value, f"[{key!r}]"
    elif isinstance(obj, (list, tuple)):
        for index, value in enumerate(obj):
            yield value, f"[{index}]"
    else:
        for name, value in _attributes(obj).items():
            yield value, f".{name}"


def _attributes(obj: Any) -> dict[str, Any]:
    try:
        state = get_object_state(obj)
    except (AssertionError, TypeError):
        return {}
    if not isinstance(state, dict):
        return {}
    return {name: value for name, value in state.items() if isinstance(name, str)}


# --- and back ---


def _job_at(path: str, known: dict[str, Any]) -> Job | None:
    """The job that stands there now, None if nothing does.

    Args:
        path: what an exported line says.
        known: objects by path, those found before; takes up this one.
    """
    start = _longest_known(path, known)
    found = known.get(start)
    for name, key in _steps(path, len(start)):
        try:
            found = _element(found, ast.literal_eval(key)) if key else _attribute(found, name)
        except (LookupError, TypeError):
            return None
    known[path] = found
    return found if isinstance(found, Job) else None


def _longest_known(path: str, known: dict[str, Any]) -> str:
    """How far the way to a job is known: shared ways are gone once, since chains of jobs may be long."""
    end = len(path)
    while (end := path.rfind(_BY_CREATOR, 0, end)) >= 0:
        begin = path[: end + len(_BY_CREATOR)]
        if begin in known:
            return begin
    return _ROOT if path.startswith(_ROOT) else ""


def _steps(path: str, end: int) -> Iterator[tuple[str, str]]:
    """The attribute names and keys from a position of a path on, one of each pair empty."""
    while end < len(path):
        step = _STEP.match(path, end)
        if step is None:
            raise SisyphusError(
                f"not a path through the graph: {path!r}. Example: output['table.md'].creator"
            )
        yield step["name"] or "", step["key"] or ""
        end = step.end()


def _element(container: Any, key: Any) -> Any:
    if isinstance(container, (dict, list, tuple)):  # anything delayed would take every key
        return container[key]
    raise LookupError(f"{type(container).__name__} has no elements")


def _attribute(obj: Any, name: str) -> Any:
    if isinstance(obj, (Job, AbstractPath)):
        return vars(obj)[name]
    return _attributes(obj)[name]
