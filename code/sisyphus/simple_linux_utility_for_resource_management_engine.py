"""The Slurm engine, under the name and with the arguments that settings files of upstream use."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from sisyphus.engines.cluster.commands import Commands
from sisyphus.engines.cluster.engine import ClusterEngine
from sisyphus.engines.cluster.slurm import MemoryAllocation, Slurm
from sisyphus.errors import EngineError


class SimpleLinuxUtilityForResourceManagementEngine(ClusterEngine):
    """Slurm.

    Args:
        default_rqmt: for what tasks do not ask: cpu, gpu, mem (GB), time (hours).
        gateway: host on which Slurm's commands are run through ssh; None: this machine.
        has_memory_resource: whether the cluster counts memory.
        auto_clean_eqw: without meaning for Slurm; upstream has it.
        ignore_jobs: ids of Slurm's jobs that are not looked at.
        memory_allocation_type: ``PER_NODE`` or ``PER_CPU``: what ``mem`` of a task means.
        job_name_mapping: makes names for Slurm from ours.
        poll_interval: seconds between two looks at the queue; ends that a task can tell are seen at once.

    Raises:
        EngineError: another memory_allocation_type.
    """

    PER_NODE: MemoryAllocation = "per_node"
    PER_CPU: MemoryAllocation = "per_cpu"

    def __init__(
        self,
        default_rqmt: dict[str, Any],
        gateway: str | None = None,
        has_memory_resource: bool = True,
        auto_clean_eqw: bool = True,
        ignore_jobs: Sequence[str] = (),
        memory_allocation_type: MemoryAllocation = PER_NODE,
        job_name_mapping: Callable[[str], str] | None = None,
        poll_interval: float = 10.0,
    ) -> None:
        if memory_allocation_type not in (self.PER_NODE, self.PER_CPU):
            raise EngineError(
                f"memory_allocation_type must be {self.PER_NODE!r} or {self.PER_CPU!r}, got "
                f"{memory_allocation_type!r}."
            )
        scheduler = Slurm(
            Commands(gateway), has_memory_resource=has_memory_resource, memory=memory_allocation_type
        )
        super().__init__(
            scheduler,
            default_rqmt,
            interval_s=poll_interval,
            job_name_mapping=job_name_mapping,
            ignore_jobs=ignore_jobs,
        )
