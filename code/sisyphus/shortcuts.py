"""The commands of ``sis shortcut``: clean, import and remove jobs of the graphs of some configs."""

from __future__ import annotations

import argparse
import logging
import os
import time
from collections.abc import Callable, Iterable
from typing import Any

from sisyphus import cleaner
from sisyphus.errors import SisyphusError
from sisyphus.graph import graph
from sisyphus.loader import config_manager


def run(args: argparse.Namespace) -> int:
    """Run the command ``args.shortcut``.

    Returns:
        Exit code 0; what fails is raised.
    """
    _COMMANDS[args.shortcut](args)
    return 0


def clean_unused(args: argparse.Namespace) -> None:
    """Find the jobs that the configs use, then those in the work directory that they do not; remove these."""
    used_path = args.load_used_path or _used(args, "used_paths", cleaner.list_all_graph_directories)
    if args.only_find_used_paths:
        return
    used = cleaner.load_used_paths(used_path)
    if not used:
        raise SisyphusError(f"{used_path} names no job, so every job would be removed. Nothing is done.")
    _remove(args, cleaner.search_for_unused(used), "not used by these configs")


def clean_by_keep_value(args: argparse.Namespace) -> None:
    """Find the keep values of all jobs of the configs, and remove the jobs whose value is too low."""
    used_path = args.load_used_path or _used(args, "used_keep_values", cleaner.extract_keep_values_from_graph)
    if args.only_find_used_paths:
        return
    removed = cleaner.find_too_low_keep_value(cleaner.load_used_paths(used_path), args.keep_value)
    _remove(args, removed, f"of keep value below {args.keep_value}")


def clean_jobs(args: argparse.Namespace) -> None:
    """Pack the finished jobs of the configs."""
    _load(args)
    logging.info("Cleaned %d jobs", len(cleaner.cleanup_jobs()))


def import_from_dir(args: argparse.Namespace) -> None:
    """Link finished jobs of other work directories."""
    from sisyphus.graph_tools.work_import import import_work_directory

    if not args.dirs:
        raise SisyphusError("nothing to import from: name work directories with --dir")
    for directory in args.dirs:
        if not os.path.isdir(directory):
            raise SisyphusError(f"{directory} is no directory. If it is a config, name it before --dir.")
    _load(args)
    import_work_directory(args.dirs, mode="symlink", use_alias=args.use_alias)


def remove_job_and_descendants(args: argparse.Namespace) -> None:
    """Remove the jobs and paths that match, with everything that depends on them."""
    from sisyphus.graph_tools import descendants

    _load(args)
    if not (args.paths or args.jobs):
        raise SisyphusError("nothing to remove: name paths with --path, or jobs with --job")
    found = _matches(args.paths, "path") + _matches(args.jobs, "job")
    descendants.remove_job_and_descendants(found)


def show_jobs_in_webserver(args: argparse.Namespace) -> None:
    """Show jobs on a web page until Ctrl-C."""
    from sisyphus import http_server

    http_server.show_jobs_in_webserver(args.port, args.jobs)


_COMMANDS: dict[str, Callable[[argparse.Namespace], None]] = {
    function.__name__: function
    for function in (
        clean_unused,
        clean_by_keep_value,
        clean_jobs,
        import_from_dir,
        remove_job_and_descendants,
        show_jobs_in_webserver,
    )
}


def _matches(texts: Iterable[str], mode: str) -> list[Any]:
    """What the texts name; each must name something, because a mistyped one may be the one that matters."""
    found = []
    for text in texts:
        matches = graph.find(text, mode=mode)
        if not matches:
            raise SisyphusError(f"no {mode} contains {text!r}. If it is a config, name it before --{mode}.")
        found += matches
    return found


def _load(args: argparse.Namespace) -> None:
    """Load the configs.

    Raises:
        SisyphusError: one of them waits for results, so that its graph is not complete.
    """
    config_manager.load_configs([*args.config_files, *args.configs])
    config_manager.continue_readers()
    if config_manager.reader_running():
        raise SisyphusError(
            f"{', '.join(config_manager.waiting_configs())}: still waits for results, so its jobs are not "
            "all known. Run the manager to the end of that config first."
        )


def _used(args: argparse.Namespace, name: str, find: Callable[[], dict[str, int]]) -> str:
    """Write the folders of all jobs of the configs into a file; returns its name."""
    _load(args)
    used_path: str = args.used_path or f"{name}.{_timestamp()}.txt"
    cleaner.save_used_paths(used_path, find())
    logging.info("Used jobs are listed in %s", used_path)
    return used_path


def _remove(args: argparse.Namespace, paths: list[str], message: str) -> None:
    listed = args.to_remove or f"to_remove.{_timestamp()}.txt"
    cleaner.save_remove_list(paths, listed)
    logging.info("Jobs to remove are listed in %s", listed)
    if args.skip_remove:
        return
    cleaner.remove_directories(
        cleaner.load_remove_list(listed), message, move_postfix=args.move_postfix, mode=args.mode
    )


def _timestamp() -> str:
    return time.strftime("%Y%m%d-%H%M%S")
