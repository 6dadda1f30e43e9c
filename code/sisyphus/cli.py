"""The command line: arguments of ``sis``, and which function runs each command.

Commands are imported when they are called: a worker starts once for each task and must not pay for the
manager.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import sisyphus.global_settings as gs
from sisyphus.commands import parsers
from sisyphus.errors import SisyphusError
from sisyphus.terminal import logs

EXIT_FAILURE, EXIT_USAGE, EXIT_INTERRUPTED = 1, 2, 130

Command = Callable[[argparse.Namespace], int]

if TYPE_CHECKING:
    _Commands = argparse._SubParsersAction["_Parser"]


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        argv: the arguments without the program's name; default: those of the process.

    Returns:
        Exit code: 0 success, 1 failure, 2 wrong arguments, 130 Ctrl-C.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    parser = make_parser(for_tasks=arguments[:1] in ([gs.CMD_WORKER], [gs.CMD_FORK_SERVER]))
    args = parser.parse_args(arguments)
    logs.set_up(args.log_level)
    if args.command is None:
        print(gs.SISYPHUS_LOGO)  # noqa: T201 - the help is the answer to this call
        parser.print_help()
        return 0
    if gs.USE_SIGNAL_HANDLERS:
        _dump_stacks_on_signals()
    command: Command = args.command
    try:
        return command(args)
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    except BrokenPipeError:  # whoever read the answer has seen enough, e.g. `sis status | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # else Python complains when it ends
        return EXIT_FAILURE
    except SisyphusError as error:  # made for people: the text says it all
        logging.error("%s", error)
    except Exception as error:  # noqa: BLE001 - mostly from a config: shown in full, and told by the exit code
        _show_traceback(error)
    return EXIT_FAILURE


class _Formatter(argparse.HelpFormatter):
    """Asks for the width of the terminal without ``shutil``, whose import is a tenth of a worker's start."""

    def __init__(self, prog: str) -> None:
        try:
            width = os.get_terminal_size().columns
        except OSError:  # not a terminal
            width = 100
        super().__init__(prog, width=width - 2)


class _Parser(argparse.ArgumentParser):
    """A parser with that formatter; those of the commands are made of the same class."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(formatter_class=_Formatter, **kwargs)


def make_parser(*, for_tasks: bool = False) -> argparse.ArgumentParser:
    """All commands and flags.

    Args:
        for_tasks: only those that run tasks: making all others takes some milliseconds, once for each task.
    """
    parser = _Parser(prog="sis", description="Workflow manager for graphs of cached jobs.")
    parser.set_defaults(command=None)
    parser.add_argument(
        "--log_level", type=int, default=logging.INFO, help="20: information (default), 10: debug"
    )
    parser.add_argument(
        "--config",
        action="append",
        default=[],
        dest="config_files",
        metavar="FILE",
        help="config; may be repeated",
    )
    commands = parser.add_subparsers(title="commands", metavar="COMMAND")
    if not for_tasks:
        _add_manager(commands)
        parsers.add_all(commands.add_parser)
        _add_console(commands)
        _add_shortcuts(commands)
    _add_worker(commands)
    _add_fork_server(commands)
    return parser


def configs(args: argparse.Namespace) -> list[str]:
    """The config arguments: those of --config, then those of the command."""
    return [*args.config_files, *args.configs]


def _add_manager(commands: _Commands) -> None:
    parser = commands.add_parser("manager", aliases=["m"], help="compute what the configs ask for")
    parser.set_defaults(command=_manager)
    parser.add_argument("-r", "--run", action="store_true", help="start working without asking")
    parser.add_argument(
        "-co",
        "--clear_errors_once",
        action="store_true",
        help="at start, move jobs in error aside and rerun them",
    )
    parser.add_argument(
        "-cio",
        "--clear_interrupts_once",
        action="store_true",
        help="the same for interrupted jobs that cannot resume",
    )
    parser.add_argument("-io", "--ignore_once", action="store_true", help="do not ask about jobs in error")
    parser.add_argument("--http", type=int, metavar="PORT", help="also show the page of `sis web`")
    parser.add_argument("--fs", "--filesystem", metavar="DIR", dest="filesystem", help="virtual file system")
    parser.add_argument("-i", "--interactive", action="store_true", help="ask before each submission")
    parser.add_argument("--ui", action="store_true", help="text user interface on the whole terminal")
    parser.add_argument(
        "configs", nargs="*", metavar="CONFIG", help="e.g. config/table.py or config.table.main"
    )


def _add_console(commands: _Commands) -> None:
    parser = commands.add_parser("console", aliases=["c"], help="explore a graph in IPython")
    parser.set_defaults(command=_console)
    parser.add_argument(
        "--load", nargs="+", default=[], metavar="JOBDIR", help="job directories to load into `jobs`"
    )
    parser.add_argument("--skip_config", action="store_true", help="load no config")
    parser.add_argument(
        "-c", dest="commands", nargs="+", default=[], metavar="COMMAND", help="commands to run at start"
    )
    parser.add_argument("-s", "--script", action="store_true", help="run the commands of -c, then end")
    parser.add_argument("configs", nargs="*", metavar="CONFIG")


def _add_worker(commands: _Commands) -> None:
    parser = commands.add_parser("worker", help="run one task of a job that is set up")
    parser.set_defaults(command=_worker)
    parser.add_argument("jobdir", metavar="JOBDIR")
    parser.add_argument("task_name", metavar="TASK")
    parser.add_argument("task_id", nargs="?", type=int, metavar="TASK_ID")
    parser.add_argument("--force_resume", "--fr", action="store_true", help="call the method for restarts")
    parser.add_argument("--engine", default="short", metavar="NAME", help="name of the engine it runs in")
    parser.add_argument("--redirect_output", action="store_true", help="write to the log file of the task")


def _add_fork_server(commands: _Commands) -> None:
    parser = commands.add_parser(gs.CMD_FORK_SERVER)  # without help: the manager starts it, not a person
    parser.set_defaults(command=_fork_server)
    parser.add_argument("channel", type=int)
    parser.add_argument("cpus", type=int)


def _add_shortcuts(commands: _Commands) -> None:
    shortcuts = commands.add_parser("shortcut", aliases=["s"], help="clean, import and remove jobs")
    names = shortcuts.add_subparsers(title="shortcuts", required=True, metavar="NAME")

    def add(name: str, summary: str) -> argparse.ArgumentParser:
        parser = names.add_parser(name, help=summary)
        parser.set_defaults(command=_shortcut, shortcut=name, configs=[])
        return parser

    for name, summary in (
        ("clean_unused", "remove jobs that the configs do not use"),
        ("clean_by_keep_value", "remove jobs of low keep value"),
    ):
        parser = add(name, summary)
        parser.add_argument("--used_path", metavar="FILE", help="where to write the used paths")
        parser.add_argument("--load_used_path", metavar="FILE", help="read used paths from an earlier call")
        parser.add_argument("--to_remove", metavar="FILE", help="where to write the paths to remove")
        parser.add_argument("--only_find_used_paths", action="store_true")
        parser.add_argument("--skip_remove", action="store_true")
        parser.add_argument("--mode", choices=("remove", "move"), default="remove")
        parser.add_argument("--move_postfix", default=".cleanup", metavar="P")
        if name == "clean_by_keep_value":
            parser.add_argument("--keep_value", type=int, default=0, metavar="N")
        parser.add_argument("configs", nargs="*", metavar="CONFIG")
    add("clean_jobs", "pack finished jobs").add_argument("configs", nargs="*", metavar="CONFIG")
    parser = add("import_from_dir", "link finished jobs of another work directory")
    parser.add_argument("--dir", nargs="+", action="extend", default=[], dest="dirs", metavar="D")
    parser.add_argument("--use_alias", action="store_true", help="also match by alias")
    parser.add_argument("configs", nargs="*", metavar="CONFIG")
    parser = add("remove_job_and_descendants", "remove jobs and all that depend on them")
    parser.add_argument("--path", nargs="+", action="extend", default=[], dest="paths", metavar="TEXT")
    parser.add_argument("--job", nargs="+", action="extend", default=[], dest="jobs", metavar="TEXT")
    parser.add_argument("configs", nargs="*", metavar="CONFIG")
    parser = add("show_jobs_in_webserver", "look at jobs in a browser")
    parser.add_argument("--port", type=int, required=True, metavar="N")
    parser.add_argument("--job", nargs="+", action="extend", default=[], dest="jobs", metavar="JOBDIR")


def _manager(args: argparse.Namespace) -> int:
    if args.filesystem:
        logging.error(
            "--fs is not part of this version. Leave it out: on a terminal the manager shows what runs."
        )
        return EXIT_USAGE
    if args.ui:
        from sisyphus.ui import opening

        if reason := opening.why_not():
            logging.error("%s", reason)
            return EXIT_USAGE
    from sisyphus.http_server import beside_manager
    from sisyphus.ui import session

    with beside_manager(args.http, configs(args)):
        return session.run(
            session.Options(
                configs=configs(args),
                run=args.run,
                clear_errors_once=args.clear_errors_once,
                clear_interrupts_once=args.clear_interrupts_once,
                ignore_once=args.ignore_once,
                interactive=args.interactive,
                ui=args.ui,
            )
        )


def _console(args: argparse.Namespace) -> int:
    from sisyphus import helper

    return helper.console(args) or 0


def _shortcut(args: argparse.Namespace) -> int:
    from sisyphus import shortcuts

    return shortcuts.run(args) or 0


def _worker(args: argparse.Namespace) -> int:
    from sisyphus import worker

    return worker.run(
        worker.Call(
            job_dir=args.jobdir,
            task_name=args.task_name,
            task_id=args.task_id,
            force_resume=args.force_resume,
            engine_name=args.engine,
            redirect_output=args.redirect_output,
        )
    )


def _fork_server(args: argparse.Namespace) -> int:
    import socket

    from sisyphus import worker
    from sisyphus.fork_server import server

    call = server.serve(socket.socket(fileno=args.channel), args.cpus)
    if call is None:
        return 0
    return server.leave(worker.run(call))


def _show_traceback(error: Exception) -> None:
    """Show where an error comes from; for a person, with the values of variables."""
    package = str(Path(__file__).parent)
    if not (gs.USE_VERBOSE_TRACEBACK and sys.stderr.isatty()):
        outside = error.__traceback__
        while outside is not None and outside.tb_frame.f_code.co_filename.startswith(package + os.sep):
            outside = outside.tb_next
        traceback.print_exception(type(error), error, outside or error.__traceback__)
        return
    from rich.console import Console
    from rich.traceback import Traceback

    shown = Traceback.from_exception(
        type(error), error, error.__traceback__, show_locals=True, suppress=[package]
    )
    Console(stderr=True).print(shown)


def _dump_stacks_on_signals() -> None:
    import faulthandler
    import signal

    for number in (signal.SIGUSR1, signal.SIGUSR2):
        faulthandler.register(number, file=sys.stderr, all_threads=True, chain=False)
