"""``sis ui``: the graph and its jobs on a whole terminal, beside whatever manager runs them."""

from __future__ import annotations

import argparse
import logging

from sisyphus.commands import jobs_by_name
from sisyphus.engines import cached_engine
from sisyphus.graph import graph
from sisyphus.loader import config_manager
from sisyphus.ui import opening


def run(args: argparse.Namespace) -> int:
    """Run the command.

    Returns:
        Exit code: 0, or 2 if there is no terminal, or the library is missing.
    """
    if reason := opening.why_not():
        logging.error("%s", reason)
        return 2
    from sisyphus.ui.backend import Backend

    jobs_by_name.load([*args.config_files, *args.configs])
    opening.show(lambda: Backend(graph, cached_engine()))
    config_manager.cancel_all_reader()
    return 0
