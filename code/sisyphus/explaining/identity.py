"""Which arguments enter an id: found out by watching what the class hashes, whatever its ``hash`` does."""

from __future__ import annotations

from typing import Any

from sisyphus import global_settings as gs
from sisyphus.job import Job
from sisyphus.job_identity import graph_lock


def left_out_of_id(job: Job) -> frozenset[str]:
    """Return the names of the arguments that do not enter the id of a job.

    Empty also if the class hashes without ``gs.SIS_HASH`` or something other than a dict of arguments: then
    nothing is known.
    """
    watched: list[Any] = []
    with graph_lock:
        before = gs.SIS_HASH

        def watch(obj: Any, *args: Any, **kwargs: Any) -> str:
            watched.append(obj)
            return before(obj, *args, **kwargs)

        gs.SIS_HASH = watch
        try:
            type(job).hash(dict(job._sis_kwargs))
        finally:
            gs.SIS_HASH = before
    hashed = watched[-1] if watched else None
    if isinstance(hashed, tuple) and hashed:
        hashed = hashed[0]
    return frozenset(job._sis_kwargs) - frozenset(hashed) if isinstance(hashed, dict) else frozenset()
