"""The Grid Engine's name, for settings files written for upstream."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sisyphus.engines._absent import AbsentEngine


class SonOfGridEngine(AbsentEngine):
    """Son of Grid Engine, with upstream's arguments; not part of this version."""

    def __init__(
        self,
        default_rqmt: dict[str, Any],
        gateway: str | None = None,
        auto_clean_eqw: bool = True,
        ignore_jobs: Sequence[str] | None = None,
        pe_name: str = "mpi",
    ) -> None:
        super().__init__()
        self.default_rqmt = default_rqmt
