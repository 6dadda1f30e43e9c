"""The process that builds a graph for ``sis diff``: ``python -m sisyphus.explaining.snapshot_process``.

Arguments: the project that asks, the file to write, the config. The current directory is the project whose
    graph
is built: the same one, or a checkout of another revision.
"""

from __future__ import annotations

import json
import logging
import os
import sys

from sisyphus import global_settings as gs
from sisyphus.errors import SisyphusError
from sisyphus.explaining.snapshot import take_snapshot
from sisyphus.graph import graph
from sisyphus.loader import config_manager
from sisyphus.terminal import logs


def main() -> int:
    """Build the graph and write its snapshot; exit code 0, or 1 if that failed."""
    project, file, config = sys.argv[1:]
    logs.set_up(logging.WARNING)
    prefer_libraries_of(gs.BASE_DIR, project)
    try:
        config_manager.load_configs([config] if config else [])
        config_manager.continue_readers()
    except SisyphusError as error:
        logging.error("%s", error)
        return 1
    if config_manager.reader_running():
        logging.warning("%s waits for results: jobs that come later are not compared", config)
        config_manager.cancel_all_reader()
    with open(file, "w", encoding="utf-8") as opened:
        json.dump(take_snapshot(graph).as_json(), opened)
    return 0


def prefer_libraries_of(checkout: str, project: str) -> None:
    """Let imports find a checkout's own version of everything that is imported from the project."""
    if os.path.realpath(checkout) == os.path.realpath(project):
        return
    own = []
    for entry in sys.path:
        place = os.path.relpath(os.path.realpath(entry or os.curdir), os.path.realpath(project))
        if not place.startswith("..") and os.path.isdir(os.path.join(checkout, place)):
            own.append(os.path.join(checkout, place))
    sys.path[:0] = own


if __name__ == "__main__":
    sys.exit(main())
