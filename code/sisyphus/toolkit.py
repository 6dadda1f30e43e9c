"""``tk``: everything that configs, recipes, settings and the console use, under one name.

What only some processes need is imported when it is asked for: workers and the manager start with this
module.
"""

from __future__ import annotations

import importlib
import logging
import os
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from sisyphus import global_settings as gs
from sisyphus.async_workflow import async_context, async_gather, async_run
from sisyphus.block import block, set_root_block, sub_block
from sisyphus.delayed_ops import Delayed
from sisyphus.graph import graph as sis_graph
from sisyphus.job import Job
from sisyphus.job_path import AbstractPath, Path, Variable
from sisyphus.loader import config_manager
from sisyphus.outputs.targets import OutputCall, OutputPath, OutputReport
from sisyphus.paths.extract import extract_paths, is_path
from sisyphus.paths.rel_path import RelPath, setup_path
from sisyphus.scripting.storage import dump, load_file, load_job, mktemp, zipped
from sisyphus.tools import sh

if TYPE_CHECKING:
    from sisyphus import cleaner as cleaner
    from sisyphus.engines import cached_engine as cached_engine
    from sisyphus.graph_tools.compare import compare_graph as compare_graph
    from sisyphus.graph_tools.descendants import remove_job_and_descendants as remove_job_and_descendants
    from sisyphus.graph_tools.migrate import export_graph as export_graph
    from sisyphus.graph_tools.migrate import migrate_graph as migrate_graph
    from sisyphus.graph_tools.replace import replace_graph_objects as replace_graph_objects
    from sisyphus.graph_tools.text import find_job as find_job
    from sisyphus.graph_tools.text import find_path as find_path
    from sisyphus.graph_tools.text import job_info as job_info
    from sisyphus.graph_tools.text import print_graph as print_graph
    from sisyphus.graph_tools.work_import import import_work_directory as import_work_directory
    from sisyphus.http_server import show_jobs_in_webserver as show_jobs_in_webserver
    from sisyphus.scripting.script_mode import failures as failures
    from sisyphus.scripting.script_mode import run as run
    from sisyphus.scripting.script_mode import run_job as run_job
    from sisyphus.scripting.script_mode import setup_job_directory as setup_job_directory
    from sisyphus.scripting.script_mode import setup_script_mode as setup_script_mode
    from sisyphus.scripting.script_mode import start_manager as start_manager
    from sisyphus.scripting.script_mode import submit_next_task as submit_next_task

__all__ = [
    "AbstractPath",
    "Delayed",
    "Job",
    "Object",
    "Path",
    "RelPath",
    "Variable",
    "async_context",
    "async_gather",
    "async_run",
    "block",
    "bundle_to_str",
    "config_manager",
    "dump",
    "extract_paths",
    "gs",
    "input_path",
    "is_path",
    "load_file",
    "load_job",
    "mktemp",
    "register_callback",
    "register_output",
    "register_report",
    "reload_module",
    "reload_recipes",
    "running_in_manager",
    "running_in_worker",
    "set_root_block",
    "setup_path",
    "sh",
    "sis_graph",
    "sub_block",
    "uncached_path",
    "zipped",
]

_LATER = {
    "cached_engine": "sisyphus.engines",
    "compare_graph": "sisyphus.graph_tools.compare",
    "export_graph": "sisyphus.graph_tools.migrate",
    "failures": "sisyphus.scripting.script_mode",
    "find_job": "sisyphus.graph_tools.text",
    "find_path": "sisyphus.graph_tools.text",
    "import_work_directory": "sisyphus.graph_tools.work_import",
    "job_info": "sisyphus.graph_tools.text",
    "migrate_graph": "sisyphus.graph_tools.migrate",
    "print_graph": "sisyphus.graph_tools.text",
    "remove_job_and_descendants": "sisyphus.graph_tools.descendants",
    "replace_graph_objects": "sisyphus.graph_tools.replace",
    "run": "sisyphus.scripting.script_mode",
    "run_job": "sisyphus.scripting.script_mode",
    "setup_job_directory": "sisyphus.scripting.script_mode",
    "setup_script_mode": "sisyphus.scripting.script_mode",
    "show_jobs_in_webserver": "sisyphus.http_server",
    "start_manager": "sisyphus.scripting.script_mode",
    "submit_next_task": "sisyphus.scripting.script_mode",
}
"""Names that are imported when they are first asked for."""


def __getattr__(name: str) -> Any:
    if name == "cleaner":
        return importlib.import_module("sisyphus.cleaner")
    module = _LATER.get(name)
    if module is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(importlib.import_module(module), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_LATER, "cleaner"})


class Object:
    """An object without anything; give it attributes."""


# --- targets ---


def register_output(name: str, value: AbstractPath, export_graph: bool = False) -> None:
    """Have ``value`` computed, and linked as ``output/<name>``.

    Args:
        name: may contain slashes.
        value: a Path or Variable.
        export_graph: also write ``value``, with all jobs that it needs, to ``output/.<name>.sis``.

    Raises:
        TypeError: if value is anything else.
    """
    if not is_path(value):
        hint = " Wrap it: tk.Path(str(...))." if isinstance(value, os.PathLike) else ""
        raise TypeError(
            f"output {name!r}: a Path or Variable is needed, got {value!r} of type "
            f"{type(value).__name__}.{hint}"
        )
    target = OutputPath(name, value)
    sis_graph.add_target(target)
    if export_graph:
        directory, base = os.path.split(os.path.join(gs.OUTPUT_DIR, gs.ALIAS_AND_OUTPUT_SUBDIR, name))
        os.makedirs(directory, exist_ok=True)
        dump(value, os.path.join(directory, f".{base}.sis"))


def register_report(
    name: str,
    values: Any,
    template: str | None = None,
    required: Any = None,
    update_frequency: float = 300,
) -> OutputReport:
    """Have a text file ``output/<name>`` written as values come in.

    Args:
        name: may contain slashes.
        values: what is reported: any value with paths and variables inside, or a function without arguments
            that returns the text.
        template: format text, filled with values (then a dict).
        required: the report is complete when all paths in here are there; default: those in values.
        update_frequency: seconds between two versions before that.

    Returns:
        The report; its method ``update_values`` exchanges the values.
    """
    report = OutputReport(name, values, template, required, update_frequency)
    sis_graph.add_target(report)
    return report


def register_callback(f: Callable[..., Any], *args: Any, **kwargs: Any) -> None:
    """Have ``f`` called once, in the manager, when all paths in its arguments are there."""
    sis_graph.add_target(OutputCall(f, args, kwargs))


# --- paths ---


def input_path(path: str | AbstractPath) -> AbstractPath:
    """Return a Path for a text, and a Path as it is."""
    return Path(path) if isinstance(path, str) else path


def uncached_path(path: Any) -> str:
    """Return the path as text, never that of a local copy."""
    return path.get_path() if isinstance(path, AbstractPath) else str(path)


def bundle_to_str(bundle: Iterable[Any]) -> str:
    """Return the texts of all elements, separated by spaces; those of a set are sorted."""
    texts = [str(element) for element in bundle]
    return " ".join(sorted(texts) if isinstance(bundle, (set, frozenset)) else texts)


# --- this process ---


def running_in_worker() -> bool:
    """Whether this process runs a task."""
    return gs.active_engine is not None


def running_in_manager() -> bool:
    """Whether this process builds graphs: manager, console or script."""
    return gs.active_engine is None


def reload_module(module: Any) -> Any:
    """Import a module again; for the console."""
    return importlib.reload(module)


def reload_recipes() -> None:
    """Import all recipes again; jobs that exist keep their old code."""
    import sys

    for name, module in sorted(sys.modules.items()):
        if name == gs.RECIPE_PREFIX or name.startswith(gs.RECIPE_PREFIX + "."):
            logging.info(f"Reloading {name}")
            importlib.reload(module)
