"""The LSF engine's name, for settings files written for upstream."""

from __future__ import annotations

from typing import Any

from sisyphus.engines._absent import AbsentEngine


class LoadSharingFacilityEngine(AbsentEngine):
    """IBM's Load Sharing Facility, with upstream's arguments; not part of this version."""

    def __init__(
        self, default_rqmt: dict[str, Any], gateway: str | None = None, auto_clean_eqw: bool = True
    ) -> None:
        super().__init__()
        self.default_rqmt = default_rqmt
