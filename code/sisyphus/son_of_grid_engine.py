"""The Grid Engine's engine, under the name and with the arguments that settings files of upstream use."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sisyphus.engines.cluster.commands import Commands
from sisyphus.engines.cluster.engine import ClusterEngine
from sisyphus.engines.cluster.grid_engine import GridEngine


class SonOfGridEngine(ClusterEngine):
    """Son of Grid Engine.

    Args:
        default_rqmt: for what tasks do not ask: cpu, gpu, mem (GB), time (hours).
        gateway: host on which its commands are run through ssh; None: this machine.
        auto_clean_eqw: let submissions go again whose start failed on a node.
        ignore_jobs: ids of its jobs that are not looked at.
        pe_name: parallel environment of tasks on several nodes.
        cpu_pe_name: parallel environment of tasks with several cpus; None: ``num_proc`` where the site counts
            it, else the first parallel environment whose slots are all on one node.
        poll_interval: seconds between two looks at the queue; ends that a task can tell are seen at once.
    """

    def __init__(
        self,
        default_rqmt: dict[str, Any],
        gateway: str | None = None,
        auto_clean_eqw: bool = True,
        ignore_jobs: Sequence[str] | None = None,
        pe_name: str = "mpi",
        poll_interval: float = 10.0,
        cpu_pe_name: str | None = None,
    ) -> None:
        scheduler = GridEngine(
            Commands(gateway),
            parallel_environment=pe_name,
            cpu_parallel_environment=cpu_pe_name,
            clears_errors=auto_clean_eqw,
        )
        super().__init__(
            scheduler, default_rqmt, interval_s=poll_interval, ignore_jobs=tuple(ignore_jobs or ())
        )
