"""The arguments of the commands of this folder. Which function runs a command is said by its name alone, so
that nothing is imported before it is called."""

from __future__ import annotations

import argparse
import importlib
from collections.abc import Callable

Add = Callable[..., argparse.ArgumentParser]

JOB_HELP = "job folder, id or part of it, alias, output, or config:name"


def add_all(add_parser: Callable[..., argparse.ArgumentParser]) -> None:
    """Add the commands.

    Args:
        add_parser: that of the parser's commands.
    """

    def add(name: str, function: str, summary: str) -> argparse.ArgumentParser:
        parser = add_parser(name, help=summary)
        parser.set_defaults(command=_later(function))
        return parser

    _explaining(add)
    _looking(add)
    _acting(add)
    _keeping(add)


def _later(function: str) -> Callable[[argparse.Namespace], int]:
    """A function of this package that is imported when it is called, as ``module.name``."""

    def call(args: argparse.Namespace) -> int:
        module, _, name = function.partition(".")
        code: int = getattr(importlib.import_module(f"sisyphus.commands.{module}"), name)(args)
        return code

    return call


def _configs(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "configs", nargs="*", metavar="CONFIG", help="e.g. config/table.py; default: as for the manager"
    )


def _json(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print JSON")


def _explaining(add: Add) -> None:
    parser = add("why", "why.run", "explain the id of a job: its arguments, and which of them changed")
    parser.add_argument("job", metavar="JOB", help=JOB_HELP)
    parser.add_argument(
        "--with", dest="other", metavar="JOB", help="compare with this one; default: the closest of its class"
    )
    _json(parser)
    parser = add("diff", "diff.run", "which jobs of a graph are new, reused or orphaned, and why")
    parser.add_argument(
        "--against", metavar="COMMIT", help="compare one config with what it was at a git commit"
    )
    parser.add_argument("--exit-code", action="store_true", help="exit with 1 if the graphs differ")
    _json(parser)
    _configs(parser)


def _looking(add: Add) -> None:
    parser = add("status", "status.run", "how far the jobs are; nothing is started")
    parser.add_argument("-a", "--all", action="store_true", help="also list finished and waiting jobs")
    parser.add_argument(
        "-u", "--usage", action="store_true", help="also list time and memory of finished jobs"
    )
    _json(parser)
    _configs(parser)
    parser = add("web", "web.run", "show graph, jobs, logs and outputs in a browser")
    parser.add_argument("--host", default="127.0.0.1", metavar="ADDRESS", help="default: this machine only")
    parser.add_argument("--port", type=int, default=8675, metavar="N", help="default: 8675; 0: any free one")
    parser.add_argument("--control", action="store_true", help="jobs can be held, released, stopped, retried")
    parser.add_argument("--token", action="store_true", help="ask for a token also on this machine")
    parser.add_argument(
        "--name",
        action="append",
        default=[],
        dest="names",
        metavar="NAME",
        help="another name by which browsers reach this machine",
    )
    parser.add_argument("--beside-manager", action="store_true", help=argparse.SUPPRESS)
    _configs(parser)
    parser = add("ui", "ui.run", "the same on a whole terminal, kept up to date")
    _configs(parser)
    parser = add("graph", "graph.run", "show the graph as text, SVG, PNG or JSON")
    parser.add_argument("-f", "--format", choices=("text", "svg", "png", "json"), help="default: by the file")
    parser.add_argument("-o", "--output", metavar="FILE", help="file for a picture, e.g. graph.svg")
    parser.add_argument(
        "-t",
        "--target",
        action="append",
        default=[],
        dest="targets",
        metavar="TARGET",
        help="only what this needs",
    )
    parser.add_argument("--by-class", action="store_true", help="draw jobs of a class as one box")
    parser.add_argument("--all", action="store_true", help="draw each job, however many there are")
    _configs(parser)
    parser = add("logs", "logs.run", "what a job printed")
    parser.add_argument("job", metavar="JOB", help=JOB_HELP)
    parser.add_argument("-f", "--follow", action="store_true", help="go on until the task ends")
    parser.add_argument("-n", "--lines", type=int, metavar="N", help="only the last N lines")
    parser.add_argument("--task", metavar="TASK", help="name of the task; default: the one that wrote last")
    parser.add_argument("--id", type=int, dest="task_id", metavar="N", help="which id of it")
    parser = add("record", "record.run", "what a job used: time, memory, GPU, packages, commit of its recipe")
    parser.add_argument("job", metavar="JOB", help=JOB_HELP)
    _json(parser)
    parser = add("du", "du.run", "what jobs take on disk, by class")
    parser.add_argument("--jobs", action="store_true", help="by job instead")
    _json(parser)


def _acting(add: Add) -> None:
    parser = add("run", "run_targets.run", "compute targets, and only what they need")
    parser.add_argument(
        "targets",
        nargs="+",
        metavar="TARGET",
        help="output, alias or job, or config:name for one of that config",
    )
    parser.add_argument(
        "--from", nargs="+", default=[], dest="configs", metavar="CONFIG", help="where to look"
    )
    for name, function, summary in (
        ("hold", "hold.hold", "do not start jobs until they are released"),
        ("cancel", "cancel.run", "stop what is queued or running of jobs, and hold them"),
        ("release", "hold.release", "let jobs on hold start"),
        ("retry", "retry.run", "let failed and interrupted tasks of jobs run again"),
    ):
        parser = add(name, function, summary)
        parser.add_argument("jobs", nargs="+", metavar="JOB", help=JOB_HELP)
        if name == "retry":
            parser.add_argument(
                "--from-start", action="store_true", help="move the folder aside and begin anew"
            )


def _keeping(add: Add) -> None:
    from sisyphus.terminal.ages import parse_age

    parser = add("clean", "clean.run", "remove jobs, after showing what goes and a question")
    parser.add_argument("--unreachable", action="store_true", help="jobs that the configs do not make")
    parser.add_argument(
        "--keep-value", type=int, metavar="N", help="jobs of the configs with a keep value below N"
    )
    parser.add_argument(
        "--older-than",
        type=parse_age,
        metavar="AGE",
        help="only jobs that finished so long ago, e.g. 12h, 30d, 2w",
    )
    parser.add_argument("--dry-run", action="store_true", help="only show what would go")
    parser.add_argument("-y", "--yes", action="store_true", help="do not ask")
    _configs(parser)
    parser = add(
        "verify", "verify.run", "compare outputs with the hashes that were noted when their jobs finished"
    )
    parser.add_argument("jobs", nargs="*", metavar="JOB", help=f"{JOB_HELP}; default: all")
    parser.add_argument(
        "--write", action="store_true", help="note the hashes of finished jobs that have none"
    )
    parser = add("import", "import_jobs.run", "take over finished jobs of other work directories")
    parser.add_argument("dirs", nargs="+", metavar="DIR", help="a work directory")
    parser.add_argument("--from", nargs="+", default=[], dest="configs", metavar="CONFIG", help="whose jobs")
    parser.add_argument("--mode", choices=("link", "copy", "hardlink"), default="link", help="default: link")
    parser.add_argument("--use-alias", action="store_true", help="also match by alias, whatever the id")
    parser.add_argument("--dry-run", action="store_true", help="only show what would be done")
    parser = add("export", "export.run", "write a target with all it came from as a folder (RO-Crate)")
    parser.add_argument("target", metavar="TARGET", help="output, alias or job, or config:name")
    parser.add_argument("-o", "--output", required=True, metavar="DIR", help="folder to make")
    parser.add_argument(
        "--from", nargs="+", default=[], dest="configs", metavar="CONFIG", help="where to look"
    )
    parser.add_argument(
        "--all-outputs", action="store_true", help="with the outputs of all jobs, not only hashes"
    )
    parser.add_argument(
        "--licence", metavar="URL", help="how it may be used: address of a licence, or a text"
    )
    parser = add("completion", "completion.run", "print what completes commands and files in a shell")
    parser.add_argument("shell", choices=("bash", "zsh"))
