"""The LSF engine, under the name and with the arguments that settings files of upstream use."""

from __future__ import annotations

from typing import Any

from sisyphus.engines.cluster.commands import Commands
from sisyphus.engines.cluster.engine import ClusterEngine
from sisyphus.engines.cluster.lsf import Lsf


class LoadSharingFacilityEngine(ClusterEngine):
    """IBM's Load Sharing Facility. Not tested on a real cluster.

    Args:
        default_rqmt: for what tasks do not ask: cpu, gpu, mem (GB), time (hours).
        gateway: host on which its commands are run through ssh; None: this machine.
        auto_clean_eqw: without meaning for LSF; upstream has it.
        poll_interval: seconds between two looks at the queue; ends that a task can tell are seen at once.
    """

    def __init__(
        self,
        default_rqmt: dict[str, Any],
        gateway: str | None = None,
        auto_clean_eqw: bool = True,
        poll_interval: float = 10.0,
    ) -> None:
        super().__init__(Lsf(Commands(gateway)), default_rqmt, interval_s=poll_interval)
