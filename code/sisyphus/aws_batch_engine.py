"""The AWS Batch engine's name, for settings files written for upstream."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sisyphus.engines._absent import AbsentEngine


class AWSBatchEngine(AbsentEngine):
    """AWS Batch, with upstream's arguments; not part of this version."""

    def __init__(
        self,
        default_rqmt: dict[str, Any],
        job_queue: str,
        job_definition: str,
        ignore_failed_jobs_after_x_seconds: float = 900,
        ignore_succeded_jobs_after_x_seconds: float = 10,
        cache_result_for_x_seconds: float = 30,
        call_prefix: Sequence[str] | None = None,
    ) -> None:
        super().__init__()
        self.default_rqmt = default_rqmt
