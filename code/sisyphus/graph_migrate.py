"""Taking over finished work after ids changed: jobs are found again by where they stand in the graph.

A line of the file is ``id path``; the path is an expression that leads from a registered output to the job::

    recipe/train/TrainJob.9fCuFCGNU1a0 output['table.md'].creator.cells['base'].creator
"""

from __future__ import annotations

import ast
import logging
import os
import sys
from collections import deque
from collections.abc import Iterator
from typing import IO, Any

from sisyphus import global_settings as gs
from sisyphus.errors import SisyphusError
from sisyphus.extract import is_path
from sisyphus.graph import graph
from sisyphus.hash import get_object_state
from sisyphus.job import Job
from sisyphus.job_dir import JobDir
from sisyphus.job_path import AbstractPath
from sisyphus.removal import check_mode
from sisyphus.transfer import MODES, can_take_over, transfer

_ROOT = "output"
_LEAVES = (str, bytes, int, float, complex, type(None), type)


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
    for number, line in enumerate(_lines(input_file), start=1):
        old_id, _, path = line.strip().partition(" ")
        if not path:
            raise SisyphusError(f"line {number} of the exported graph is not 'id path': {line.strip()!r}")
        job = _job_at(path)
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
        yield obj.creator, ".creator"
    elif isinstance(obj, dict):
        for key, value in obj.items():
            if isinstance(key, _LEAVES) and not isinstance(key, type):
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
    return {
        name: value
        for name, value in state.items()
        if isinstance(name, str) and hasattr(type(obj), "__dict__")
    }


# --- and back ---


def _job_at(path: str) -> Job | None:
    """The job that stands there now, None if nothing does."""
    try:
        tree = ast.parse(path, mode="eval").body
    except SyntaxError as error:
        raise SisyphusError(
            f"not a path through the graph: {path!r}. Example: output['table.md'].creator"
        ) from error
    try:
        found = _follow(tree)
    except (AttributeError, LookupError, TypeError):
        return None
    return found if isinstance(found, Job) else None


def _follow(step: ast.expr) -> Any:
    if isinstance(step, ast.Name) and step.id == _ROOT:
        return graph.output
    if isinstance(step, ast.Attribute):
        return _attribute(_follow(step.value), step.attr)
    if isinstance(step, ast.Subscript):
        container = _follow(step.value)
        if isinstance(container, (dict, list, tuple)):  # anything delayed takes every key
            return container[ast.literal_eval(step.slice)]
        raise LookupError(f"{type(container).__name__} has no elements")
    raise SisyphusError(f"not a step through the graph: {ast.unparse(step)!r}")


def _attribute(obj: Any, name: str) -> Any:
    if isinstance(obj, (Job, AbstractPath)):
        return vars(obj)[name]
    return _attributes(obj)[name]
