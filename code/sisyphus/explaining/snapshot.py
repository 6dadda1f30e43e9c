"""All jobs of a graph with their arguments, as plain data that other processes can compare."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from sisyphus.explaining.described import from_json
from sisyphus.explaining.saved_jobs import SavedJob, save_in_memory
from sisyphus.graph import SISGraph, creators_of


@dataclass(frozen=True)
class JobSnapshot:
    """One job of a graph."""

    saved: SavedJob
    made_at: str
    names: tuple[str, ...]
    """Aliases, and names of the targets that want it directly."""
    inputs: tuple[str, ...]
    """Ids of the jobs that make its inputs."""


@dataclass(frozen=True)
class Snapshot:
    """A graph; jobs by id, dependencies first."""

    jobs: Mapping[str, JobSnapshot] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        """Return it as plain data, see :func:`from_plain`."""
        return {job_id: _job_as_json(job) for job_id, job in self.jobs.items()}


def take_snapshot(graph: SISGraph) -> Snapshot:
    """Return what the graph of this process consists of now."""
    ordered = graph.jobs_sorted()
    names: dict[str, set[str]] = {}
    for target in graph.targets:
        for path in target.required_full_list:
            if path.creator is not None:
                names.setdefault(path.creator._sis_id(), set()).add(target.name)
    jobs = {}
    for job in ordered:
        job_id = job._sis_id()
        jobs[job_id] = JobSnapshot(
            save_in_memory(job),
            job._sis_created_at,
            tuple(sorted({*(job.get_aliases() or ()), *names.get(job_id, ())})),
            tuple(sorted(creator._sis_id() for creator in creators_of(job))),
        )
    return Snapshot(jobs)


def _job_as_json(job: JobSnapshot) -> dict[str, Any]:
    return {
        "arguments": {name: node.as_json() for name, node in job.saved.arguments.items()},
        "version": job.saved.version,
        "aliases": sorted(job.saved.aliases),
        "commit": job.saved.commit,
        "left_out": sorted(job.saved.left_out),
        "made_at": job.made_at,
        "names": list(job.names),
        "inputs": list(job.inputs),
    }


def from_plain(plain: Mapping[str, Any]) -> Snapshot:
    """Return the snapshot that :meth:`Snapshot.as_json` made this of."""
    return Snapshot(
        {
            job_id: JobSnapshot(
                SavedJob(
                    job_id,
                    {name: from_json(node) for name, node in job["arguments"].items()},
                    job["version"],
                    frozenset(job["aliases"]),
                    job["commit"],
                    frozenset(job["left_out"]),
                ),
                job["made_at"],
                tuple(job["names"]),
                tuple(job["inputs"]),
            )
            for job_id, job in plain.items()
        }
    )
