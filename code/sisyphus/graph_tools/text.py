"""The graph as text, for the console: printed, not logged, because it is the answer to a question."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from sisyphus.graph import creators_of, graph
from sisyphus.graph_tools.descendants import jobs_depending_on
from sisyphus.job import Job
from sisyphus.job_path import AbstractPath


def find_job(pattern: str) -> list[Job]:
    """Return, and print with their numbers, the jobs whose folder, display name or alias contains a text."""
    return _printed(graph.find(pattern, mode="job"))


def find_path(pattern: str) -> list[AbstractPath]:
    """Return, and print with their numbers, the paths that contain a text."""
    return _printed(graph.find(pattern, mode="path"))


def _printed(found: list[Any]) -> list[Any]:
    for number, item in enumerate(found):
        _print(f"{number}: {item!r}")
    return found


def job_info(job: Job) -> None:
    """Print id, state of the folder, arguments, inputs, outputs and directories of a job."""
    state = "finished" if job._sis_finished() else "set up" if job._sis_setup() else "not set up"
    _print(f"Job id: {job._sis_id()} ({state})")
    if job._sis_created_at:
        _print(f"Made at: {job._sis_created_at}")
    _print_section("Aliases", sorted(job.get_aliases() or ()))
    _print_section("Arguments", [f"{name}: {value!r}" for name, value in sorted(job._sis_kwargs.items())])
    _print_section("Inputs", [repr(path) for path in sorted(job._sis_inputs)])
    _print_section("Outputs", [repr(path) for path in sorted(job._sis_outputs.values())])
    _print(f"Job dir: {job._sis_path(abspath=True)}")
    _print(f"Work dir: {job.work_path()}")


def _print_section(title: str, lines: Sequence[str]) -> None:
    if lines:
        _print(f"{title}:")
        for line in lines:
            _print(f"  {line}")


def print_graph(
    targets: Iterable[Job | AbstractPath] | Job | AbstractPath | None = None,
    required_inputs: Iterable[Job | AbstractPath] | Job | AbstractPath | None = None,
) -> None:
    """Print what targets depend on as a tree; a job is unfolded once, and marked ``...`` from then on.

    Args:
        targets: jobs or paths; default: all targets of the graph.
        required_inputs: only show branches that lead to one of these jobs or paths.
    """
    roots = _listed(targets)
    if roots is None:
        roots = [
            path
            for target in sorted(graph.targets, key=lambda t: t.name)
            for path in target.required_full_list
        ]
    wanted = _listed(required_inputs)
    shown = None if wanted is None else set(jobs_depending_on(wanted))
    jobs = dict.fromkeys(root.creator if isinstance(root, AbstractPath) else root for root in roots)
    waiting = [(job, 0) for job in reversed(jobs) if isinstance(job, Job)]
    unfolded: set[Job] = set()
    while waiting:
        job, depth = waiting.pop()
        if shown is not None and job not in shown:
            continue
        creators = sorted(creators_of(job), reverse=True)
        again = job in unfolded and bool(creators)
        _print(f"{'  ' * depth}{job}{' ...' if again else ''}")
        if not again:
            unfolded.add(job)
            waiting.extend((creator, depth + 1) for creator in creators)


def _listed(things: Any) -> list[Any] | None:
    return [things] if isinstance(things, (Job, AbstractPath)) else None if things is None else list(things)


def _print(text: str) -> None:
    print(text)  # noqa: T201 - see above
