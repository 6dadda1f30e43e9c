"""What a worker adds to the usage file of its task, under the key ``record``.

``wall_time_s`` and ``cpu_time_s`` (with children) are of all runs that led to the result; ``series`` are
points over time of the last run; at the end come ``ended`` (seconds since the epoch), ``python``,
``packages``, ``recipe`` (repository, commit, dirty, version) and, where there is a GPU, ``gpu``.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from typing import Any

from sisyphus.records.packages import loaded_versions

KEY = "record"


def closing_facts(made_with: Mapping[str, Any], gpu: Mapping[str, Any]) -> dict[str, Any]:
    """Return what this process, a worker that is about to end, can say beyond times and memory.

    Args:
        made_with: what was saved with the job, see ``recipe_state.made_with``.
        gpu: what was seen of the GPUs, see ``GpuMeter.summary``.
    """
    facts = {
        "ended": time.time(),
        "python": sys.version.split()[0],
        "packages": loaded_versions(),
        "recipe": dict(made_with),
    }
    return {**facts, "gpu": dict(gpu)} if gpu else facts


def times_so_far(usage: Mapping[str, Any] | None) -> tuple[float, float]:
    """Return wall and cpu seconds of the runs before this one, from the usage file that they left."""
    if usage is None:
        return 0.0, 0.0
    record = usage.get(KEY) or {}
    wall_s = record.get("wall_time_s", 3600 * usage.get("used_time", 0.0))
    return float(wall_s), float(record.get("cpu_time_s", 0.0))
