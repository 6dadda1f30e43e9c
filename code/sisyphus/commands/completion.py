"""``sis completion``: what makes a shell complete commands, flags, configs and job folders."""

from __future__ import annotations

import argparse
from collections.abc import Iterator

from sisyphus.terminal.answers import say

_FILES = frozenset({"CONFIG", "CONFIG_OR_TARGET", "JOB", "JOBDIR", "TARGET", "FILE", "DIR", "D"})
"""Placeholders for what is a path, or may be given as one: jobs lie in ``work/`` and ``alias/``."""


def run(args: argparse.Namespace) -> int:
    """Print the script; exit code 0."""
    import shtab

    from sisyphus.cli import make_parser

    parser = make_parser()
    for action in _actions(parser):
        if action.metavar in _FILES:
            action.complete = shtab.FILE  # type: ignore[attr-defined]
    say(shtab.complete(parser, shell=args.shell))
    return 0


def _actions(parser: argparse.ArgumentParser) -> Iterator[argparse.Action]:
    """All arguments of a parser and of the parsers of its commands."""
    for action in parser._actions:
        yield action
        if isinstance(action, argparse._SubParsersAction):
            for below in set(action.choices.values()):
                yield from _actions(below)
