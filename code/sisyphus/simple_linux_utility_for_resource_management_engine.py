"""The Slurm engine's name, for settings files written for upstream."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from sisyphus.engines._absent import AbsentEngine


class SimpleLinuxUtilityForResourceManagementEngine(AbsentEngine):
    """Slurm, with upstream's arguments; not part of this version."""

    PER_NODE = "per_node"
    PER_CPU = "per_cpu"

    def __init__(
        self,
        default_rqmt: dict[str, Any],
        gateway: str | None = None,
        has_memory_resource: bool = True,
        auto_clean_eqw: bool = True,
        ignore_jobs: Sequence[str] = (),
        memory_allocation_type: str = PER_NODE,
        job_name_mapping: Callable[[str], str] | None = None,
    ) -> None:
        super().__init__()
        self.default_rqmt = default_rqmt
