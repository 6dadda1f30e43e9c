"""Removing jobs together with everything that was made from their outputs."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from typing import Any

from sisyphus.cleaning.removal import MODES, check_mode
from sisyphus.graph import creators_of, graph
from sisyphus.job import Job
from sisyphus.job_path import AbstractPath
from sisyphus.terminal.prompts import ask


def jobs_depending_on(things: Iterable[Job | AbstractPath]) -> list[Job]:
    """Return these jobs and all jobs of the graph that depend on one of them, dependencies first.

    Args:
        things: jobs, and paths: of a path with creator its job, of any other the jobs that read it.
    """
    meant: set[Any] = {
        thing.creator if isinstance(thing, AbstractPath) and isinstance(thing.creator, Job) else thing
        for thing in things
    }
    ordered = graph.jobs_sorted()
    for job in ordered:
        if creators_of(job) & meant or job._sis_inputs & meant:
            meant.add(job)
    return [job for job in ordered if job in meant]


def remove_job_and_descendants(
    jobs: Job | AbstractPath | str | Sequence[Job | AbstractPath | str], mode: str = "remove"
) -> bool:
    """Remove jobs and all jobs that depend on them, as far as they are set up, after a question.

    Args:
        jobs: jobs, paths, or texts that name jobs and paths as in ``tk.sis_graph.find``.
        mode: ``remove``, ``move`` (aside, as ``<folder>.cleared.0001``) or ``dryrun``.

    Returns:
        Whether something was removed.

    Raises:
        SisyphusError: the mode is unknown.
    """
    check_mode(mode, MODES)
    given = [jobs] if isinstance(jobs, (Job, AbstractPath, str)) else list(jobs)
    affected = [job for job in jobs_depending_on(_resolved(given)) if job._sis_setup()]
    for job in affected:
        logging.info("Affected: %s", job)
    if not affected:
        logging.warning("None of these jobs, and of those that depend on them, is set up: nothing to remove")
        return False
    if mode == "dryrun" or ask("Start deleting? (y/N) ", "n") not in ("y", "yes"):
        logging.info("Nothing is removed")
        return False
    for job in reversed(affected):  # a kill in between leaves no job without its inputs
        job._sis_move() if mode == "move" else job._sis_delete()
    for job in graph.jobs(update_graph=False):
        job._sis_available_inputs.clear()
    return True


def _resolved(given: Iterable[Job | AbstractPath | str]) -> list[Job | AbstractPath]:
    found: list[Job | AbstractPath] = []
    for thing in given:
        if not isinstance(thing, str):
            found.append(thing)
            continue
        matches = graph.find(thing)
        if not matches:
            logging.warning("Nothing in the graph matches %r", thing)
        found += matches
    return found
