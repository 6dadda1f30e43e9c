"""Where tasks run. One file is one engine; ``base`` says what each must answer."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

import sisyphus.global_settings as gs

if TYPE_CHECKING:
    from sisyphus.engines.base import EngineBase


@cache
def cached_engine() -> EngineBase:
    """The engine of this process, made by the settings' ``engine()`` when it is first asked for."""
    return gs.engine()
