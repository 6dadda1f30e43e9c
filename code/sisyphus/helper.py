"""The console: Python with the graph of some configs, or with some jobs, at hand."""

from __future__ import annotations

import argparse
import code
import logging
from collections.abc import Sequence
from typing import Any

from sisyphus import toolkit
from sisyphus.loader import config_manager, default_config
from sisyphus.scripting.storage import load_job

_BANNER = "`tk` is the toolkit: tk.print_graph(), tk.find_job('text'), tk.job_info(job), tk.cleaner, ..."


def console(args: argparse.Namespace) -> int:
    """Run ``sis console``.

    Args:
        args: ``config_files`` and ``configs`` to load, unless ``skip_config`` is set or there are jobs to
            ``load`` into ``jobs``; ``commands`` to run at start; ``script``: end after them.

    Returns:
        Exit code 0. Whatever a config or a command of a script raises passes through.
    """
    names = namespace([*args.config_files, *args.configs], load=args.load, skip_config=args.skip_config)
    if args.script:
        run_commands(args.commands, names)
    else:
        interact(args.commands, names)
    return 0


def namespace(
    configs: Sequence[str], *, load: Sequence[str] = (), skip_config: bool = False
) -> dict[str, Any]:
    """Load configs or jobs, and return the names that a console starts with.

    Args:
        configs: config arguments; without any, the default one.
        load: job folders; given, no config is loaded.
        skip_config: load no config.
    """
    names: dict[str, Any] = {"tk": toolkit, "config_files": list(configs)}
    if load:
        names["jobs"] = [load_job(path) for path in load]
    elif not skip_config:
        names["config_files"] = list(configs) or [default_config()]
        config_manager.load_configs(names["config_files"])
    return names


def run_commands(commands: Sequence[str], names: dict[str, Any]) -> None:
    """Execute Python commands, one after the other."""
    for command in commands:
        exec(compile(command, "<command>", "exec"), names)


def interact(commands: Sequence[str], names: dict[str, Any]) -> None:
    """Run commands, then let a person type: in IPython if it is installed, else in Python's own console."""
    try:
        import IPython
        from traitlets.config import Config
    except ImportError:
        logging.info("IPython is not installed (pip install ipython): this is the plain console of Python")
        run_commands(commands, names)
        code.interact(banner=_BANNER, local=names, exitmsg="")
        return
    config = Config()
    config.InteractiveShellApp.exec_lines = list(commands)
    config.TerminalInteractiveShell.banner2 = f"{_BANNER}\n"
    IPython.start_ipython(argv=[], user_ns=names, config=config)
