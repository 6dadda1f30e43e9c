"""``sis graph``: the graph of some configs as text, picture or data."""

from __future__ import annotations

import argparse
import logging

from sisyphus.commands import jobs_by_name
from sisyphus.commands.run_targets import choose
from sisyphus.engines import cached_engine
from sisyphus.errors import SisyphusError
from sisyphus.graph import graph
from sisyphus.loader import config_manager
from sisyphus.terminal.answers import say, say_json
from sisyphus.view import drawing, layout, tree
from sisyphus.view.facts import look

_MOST_BOXES = 400
"""More jobs are drawn by class, unless all are asked for."""

FORMATS = ("text", "json", *drawing.FORMATS)


def run(args: argparse.Namespace) -> int:
    """Run the command; exit code 0.

    Raises:
        SisyphusError: a picture without a file to write it to.
    """
    kind = args.format or (args.output.rpartition(".")[2] if args.output else "text")
    if kind not in FORMATS:
        raise SisyphusError(f"unknown format {kind!r}. Known: {', '.join(FORMATS)}.")
    if kind in drawing.FORMATS and not args.output:
        raise SisyphusError(f"a picture needs a file: --output graph.{kind}")
    jobs_by_name.load([*args.config_files, *args.configs])
    if args.targets:
        choose(args.targets)
    facts = look(graph, cached_engine(), waiting_configs=config_manager.waiting_configs())
    config_manager.cancel_all_reader()
    if kind == "json":
        say_json(facts.as_json())
    elif kind == "text":
        for line in tree.lines(facts):
            say(line)
    else:
        by_class = args.by_class or (len(facts.jobs) > _MOST_BOXES and not args.all)
        if by_class and not args.by_class:
            logging.info("%d jobs are drawn by class; --all draws each of them", len(facts.jobs))
        boxes = layout.boxes_of_classes(facts) if by_class else layout.boxes_of_jobs(facts)
        drawing.draw(layout.arrange(boxes), args.output, kind)
        say(args.output)
    return 0
