"""The engine of a project whose settings name none."""

from __future__ import annotations

import logging
import os
from typing import TYPE_CHECKING

from sisyphus import global_settings as gs

if TYPE_CHECKING:
    from sisyphus.engines.local import LocalEngine


def local_engine() -> LocalEngine:
    """Make an engine that uses all cpus of this machine, and no gpu."""
    from sisyphus.engines.local import LocalEngine  # not while a graph is built, which needs no engine

    num_cpus = os.cpu_count() or 1
    if gs.ENGINE_NOT_SETUP_WARNING:
        logging.info(
            f"No engine is set up in {gs.GLOBAL_SETTINGS_FILE_DEFAULT}: tasks run on this machine, "
            f"on {num_cpus} cpus and no gpu."
        )
    return LocalEngine(cpu=num_cpus, gpu=0)
