"""What recipes import from ``sisyphus.tools``: paths in values, shell commands, units, environments."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from sisyphus import global_settings as gs
from sisyphus.delayed_ops import try_get
from sisyphus.paths.extract import extract_paths
from sisyphus.results_cache import finished_results_cache
from sisyphus.units import str_to_GB, str_to_hours

__all__ = [
    "EnvironmentModifier",
    "cache_result",
    "execute_in_dir",
    "extract_paths",
    "finished_results_cache",
    "hardlink_or_copy",
    "sh",
    "sis_hash",
    "str_to_GB",
    "str_to_hours",
    "try_get",
]


def sis_hash(obj: Any) -> str:
    """Return the hash text of ``obj``, by the function that the settings name now."""
    return gs.SIS_HASH(obj)


def sh(
    command: str,
    capture_output: bool = False,
    pipefail: bool = True,
    executable: str | None = None,
    except_return_codes: tuple[int, ...] = (0,),
    sis_quiet: bool = False,
    sis_replace: dict[str, Any] | None = None,
    include_stderr: bool = False,
    **kwargs: Any,
) -> str | None:
    """Run a shell command.

    Args:
        command: text with ``{name}`` placeholders.
        capture_output: return what it prints.
        pipefail: fail if any part of a pipe fails or an unset variable is used.
        executable: shell; default ``/bin/bash``.
        except_return_codes: return codes that are no failure, beside 0.
        sis_quiet: do not log the command.
        sis_replace: values of placeholders.
        include_stderr: capture the error output, too.
        **kwargs: more values of placeholders.

    Returns:
        The decoded output if it is captured, else None.

    Raises:
        subprocess.CalledProcessError: for any other return code.
    """
    import subprocess

    filled = command.format(**{**(sis_replace or {}), **kwargs})
    if not sis_quiet:
        logging.info(f"Run in shell: {filled}")
    if pipefail and executable is None:
        filled = "set -ueo pipefail && " + filled
    done = subprocess.run(
        filled,
        shell=True,
        executable=executable or "/bin/bash",
        stdout=subprocess.PIPE if capture_output else None,
        stderr=subprocess.STDOUT if capture_output and include_stderr else None,
        check=False,
    )
    if done.returncode != 0 and done.returncode not in except_return_codes:
        raise subprocess.CalledProcessError(done.returncode, filled, output=done.stdout)
    return done.stdout.decode() if capture_output else None


@contextmanager
def execute_in_dir(directory: str | os.PathLike[str]) -> Iterator[None]:
    """Work in another directory for a while."""
    before = os.getcwd()
    os.chdir(directory)
    try:
        yield
    finally:
        os.chdir(before)


def cache_result(
    cache_time: float = 30, clear_cache: str | None = None
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Decorate a function or method to remember results for ``cache_time`` seconds.

    Args:
        cache_time: seconds.
        clear_cache: name under which the decorated function offers to forget all results.
    """
    import functools

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        remembered: dict[Any, tuple[float, Any]] = {}

        @functools.wraps(function)
        def cached(*args: Any, **kwargs: Any) -> Any:
            key = (args, tuple(sorted(kwargs.items())))
            now = time.monotonic()
            when, result = remembered.get(key, (float("-inf"), None))
            if now - when > cache_time:
                result = function(*args, **kwargs)
                remembered[key] = (now, result)
            return result

        if clear_cache is not None:
            setattr(cached, clear_cache, remembered.clear)
        return cached

    return decorate


def hardlink_or_copy(source: str, target: str, use_symlink_instead_of_copy: bool = False) -> None:
    """Make ``target`` hold what ``source`` holds, as a hard link where the disk allows it.

    Directories are gone through; their files are linked.

    Args:
        source: file or directory.
        target: must not exist if source is a file.
        use_symlink_instead_of_copy: where no hard link is possible, make a symbolic one.
    """
    import shutil

    if os.path.isdir(source):
        os.makedirs(target, exist_ok=True)
        for name in os.listdir(source):
            hardlink_or_copy(
                os.path.join(source, name), os.path.join(target, name), use_symlink_instead_of_copy
            )
        return
    try:
        os.link(source, target)
    except FileExistsError:
        raise
    except OSError:  # another disk, or one without hard links
        if use_symlink_instead_of_copy:
            os.symlink(os.path.abspath(source), target)
        else:
            shutil.copy2(source, target)


class EnvironmentModifier:
    """Which environment variables a task keeps, and which it is given."""

    def __init__(self) -> None:
        self.keep_vars: set[str] = set()
        self.set_vars: dict[str, tuple[str, bool]] = {}

    def keep(self, names: str | set[str] | list[str] | tuple[str, ...]) -> None:
        """Keep the variables of these names."""
        self.keep_vars.update([names] if isinstance(names, str) else names)

    def set(self, key: str | dict[str, Any], value: Any = None, verbatim: bool = False) -> None:
        """Set a variable, or several given as a dict; unless verbatim, ``$NAME`` is replaced."""
        for name, content in key.items() if isinstance(key, dict) else [(key, value)]:
            self.set_vars[name] = (str(content), verbatim)

    def modify_environment(self) -> None:
        """Change the environment of this process: remove what is not kept, then set."""
        import string

        original = dict(os.environ)
        if gs.CLEANUP_ENVIRONMENT:
            for name in original.keys() - self.keep_vars:
                del os.environ[name]
        for name, (content, verbatim) in self.set_vars.items():
            os.environ[name] = content if verbatim else string.Template(content).safe_substitute(original)

    def __repr__(self) -> str:
        return f"EnvironmentModifier(keep={sorted(self.keep_vars)}, set={self.set_vars})"
