"""``sis web``: a page that shows the graph of some configs, their jobs and what came out."""

from __future__ import annotations

import argparse

from sisyphus.commands import jobs_by_name
from sisyphus.engines import cached_engine
from sisyphus.graph import graph
from sisyphus.loader import config_manager
from sisyphus.view.facts import GraphFacts
from sisyphus.view.watch import Watch
from sisyphus.web.installed import check_installed


def run(args: argparse.Namespace) -> int:
    """Run the command; exit code 0.

    Raises:
        SisyphusError: the packages of the extra ``web`` are missing, or the port is taken.
    """
    check_installed()
    from sisyphus.web.app import Page
    from sisyphus.web.server import Address, serve

    jobs_by_name.load([*args.config_files, *args.configs])

    watch = Watch(graph, cached_engine(), waiting_configs=config_manager.waiting_configs)

    def look() -> GraphFacts:
        config_manager.continue_readers()
        return watch.look()

    address = Address(
        host=args.host,
        port=args.port,
        names=tuple(args.names),
        token=args.token,
        wait_for_port=args.beside_manager,
        end_with_stdin=args.beside_manager,
    )
    try:
        engine = cached_engine() if args.control else None
        serve(Page(graph, look, engine=engine), address, control=args.control)
    finally:
        config_manager.cancel_all_reader()
    return 0
