"""The engine for schedulers that PSI/J speaks to; not part of upstream."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sisyphus.engines.cluster.engine import ClusterEngine
from sisyphus.engines.cluster.psij import Psij


class PsijEngine(ClusterEngine):
    """PBS, Flux, Cobalt and others, through PSI/J (``pip install "model-merging[psij]"``).

    Args:
        default_rqmt: for what tasks do not ask: cpu, gpu, mem (GB), time (hours; without it, an hour).
        executor: PSI/J's name of the scheduler: ``pbs``, ``lsf``, ``flux``, ``cobalt``, ``slurm``, ``local``.
        queue_name: queue or partition; None: the scheduler's default.
        account: that is billed; None: the scheduler's default.
        attributes: further directives of the scheduler, as ``{"pbs.l": "place=scatter"}``; those of a task
            are in ``rqmt["psij_attributes"]``.
        poll_interval: seconds between two looks at the queue; ends that a task can tell are seen at once.
    """

    def __init__(
        self,
        default_rqmt: dict[str, Any],
        executor: str,
        queue_name: str | None = None,
        account: str | None = None,
        attributes: Mapping[str, str] | None = None,
        poll_interval: float = 10.0,
    ) -> None:
        scheduler = Psij(
            executor, queue=queue_name, account=account, attributes=attributes, interval_s=poll_interval
        )
        super().__init__(scheduler, default_rqmt, interval_s=poll_interval)
