"""Paths and variables: how the outputs of one job become the inputs of another."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Self

from sisyphus import global_settings as gs
from sisyphus.atomic_files import write_atomically
from sisyphus.delayed_ops import DelayedBase
from sisyphus.errors import VariableNotSet
from sisyphus.hash import sis_hash_helper
from sisyphus.results_cache import finished_results_cache

if TYPE_CHECKING:
    from sisyphus.job import Job

__all__ = ["AbstractPath", "NoBackup", "Path", "Variable", "VariableNotSet"]


def _hashed_creator(creator: Any) -> Any:
    """What stands for a creator in hashes: for a job, where its outputs are."""
    if creator is not None and hasattr(creator, "_sis_id"):
        return f"{creator._sis_id()}/{gs.JOB_OUTPUT}"
    return creator


def _joined(directory: str, path: str) -> str:
    """As ``os.path.join``, quickly in the usual case: large graphs join often."""
    if path.startswith("/") or directory.endswith("/"):
        return os.path.join(directory, path)
    return f"{directory}/{path}"


def _is_below_project(path: str) -> bool:
    return path.startswith(gs.BASE_DIR + os.sep)


class NoBackup:
    """Stands for: this variable has no value of last resort."""


class AbstractPath(DelayedBase):
    """A file or directory that a job makes, or that lies outside of all jobs.

    Args:
        path: relative to the output directory of its creator; without creator relative to the project, or
            absolute.
        creator: the job that makes it.
        cached: workers may read a local copy, see ``gs.file_caching``.
        hash_overwrite: what enters hashes instead of ``(creator, path)``: a pair, or a text for ``(None,
            text)``.
        tags: labels; default: those of the creator.
        available: picklable function of the path that says whether it may be used.

    Raises:
        AssertionError: if path is not a text, or hash_overwrite a tuple of other length than two.
    """

    _sis_path = True

    def __init__(
        self,
        path: str,
        creator: Any = None,
        cached: bool = False,
        hash_overwrite: str | tuple[Any, str] | None = None,
        tags: set[str] | None = None,
        available: Callable[[Any], bool] | None = None,
    ) -> None:
        if not isinstance(path, str):
            raise AssertionError(
                f"a Path is made of a text, got {path!r} of type {type(path).__name__}. Use str(...) or "
                "os.fspath(...)."
            )
        if isinstance(hash_overwrite, str):
            hash_overwrite = (None, hash_overwrite)
        if hash_overwrite is not None and len(hash_overwrite) != 2:
            raise AssertionError(
                f"hash_overwrite of Path {path!r} must be a text or a pair (creator, path), got "
                f"{hash_overwrite!r}"
            )
        self.path = path
        self.creator = creator
        self.cached = cached
        self.hash_overwrite = hash_overwrite
        self.users: set[Job] = set()
        self._tags = tags
        self._available = available
        if path[:1] == os.sep and gs.WARNING_ABSPATH and hash_overwrite is None and _is_below_project(path):
            logging.warning(
                f"Absolute path below the project directory: {path}. The ids of jobs using it depend on "
                "where the project lies; give it relative to the project, or with hash_overwrite."
            )

    # --- identity ---

    def _sis_hash(self) -> bytes:
        creator, path = self.hash_overwrite or (self.creator, self.path)
        return b"(Path, " + sis_hash_helper((_hashed_creator(creator), path)) + b")"

    def _sort_key(self) -> tuple[str, str]:
        creator = self.creator
        return (creator._sis_id() if hasattr(creator, "_sis_id") else str(creator or ""), self.path)

    def __eq__(self, other: object) -> bool:
        if type(self) is not type(other):
            return False
        return bool(self.creator == other.creator and self.path == other.path)

    def __hash__(self) -> int:
        return hash((self.__class__, self.creator, self.path))

    def __lt__(self, other: AbstractPath) -> bool:
        return self._sort_key() < other._sort_key()

    # --- where it is ---

    def rel_path(self) -> str:
        """Return the path relative to the project (or absolute, if it was given so)."""
        if self.creator is None:
            return self.path
        if not hasattr(self.creator, "_sis_path"):
            return os.path.join(str(self.creator), self.path)
        return _joined(self.creator._sis_path(gs.JOB_OUTPUT), self.path)

    def get_path(self) -> str:
        """Return the absolute path."""
        return _joined(gs.BASE_DIR, self.rel_path())

    def get_cached_path(self) -> str:
        """Return the path of a local copy if this one is marked as cached and read in a worker."""
        path = self.get_path()
        return gs.file_caching(path) if self.cached and gs.active_engine is not None else path

    def get(self) -> Any:
        """Return the path as text.

        Raises:
            AssertionError: outside of workers, if the settings forbid it there.
        """
        if gs.DELAYED_CHECK_FOR_WORKER and gs.active_engine is None:
            raise AssertionError(
                f"the value of {self.rel_path()} is read while the graph is built. Use delayed operations, "
                "or switch gs.DELAYED_CHECK_FOR_WORKER off."
            )
        return self.get_path()

    def __str__(self) -> str:
        return self.get_cached_path()

    def __fspath__(self) -> str:
        return self.get_cached_path()

    def __repr__(self) -> str:
        path = self.get_path()
        return repr(path) if gs.LEGACY_PATH_CONVERSION else f"<Path {path}>"

    # --- whether it is there ---

    def available(self, debug_info: Any = None) -> bool:
        """Whether it may be used.

        Args:
            debug_info: named in the warning if a finished job lacks this output.
        """
        if self._available is not None:
            return bool(self._available(self))
        if not hasattr(self.creator, "path_available"):
            return os.path.exists(self.get_path())
        if finished_results_cache.has("available", self.rel_path()):
            return True
        there = bool(self.creator.path_available(self))
        if there:
            finished_results_cache.remember("available", self.rel_path())
        elif self.creator._sis_is_finished:
            logging.warning(
                f"{self.creator} is finished, but does not release {self.rel_path()}"
                + (f" ({debug_info})" if debug_info else "")
            )
        return there

    def is_set(self) -> bool:
        """Whether it may be used."""
        return self.available()

    @property
    def tags(self) -> set[str]:
        """Labels of this path, else those of its creator."""
        if self._tags is not None:
            return self._tags
        tags: set[str] = getattr(self.creator, "tags", set())
        return tags

    @tags.setter
    def tags(self, tags: set[str] | None) -> None:
        self._tags = tags

    # --- others made from it ---

    def copy(self) -> Self:
        """Return an equal path."""
        return self.copy_append("")

    def copy_append(self, suffix: str) -> Self:
        """Return the path with text appended, also to what enters hashes."""
        new = self._copy_without_users()
        new.path = self.path + suffix
        if self.hash_overwrite is not None:
            creator, path = self.hash_overwrite
            new.hash_overwrite = (creator, path + suffix)
        return new

    def join_right(self, other: str) -> Self:
        """Return the path of ``other`` inside this directory."""
        return self.copy_append("/" + other)

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return self._copy_without_users()

    def _copy_without_users(self) -> Self:
        new = self.__class__.__new__(self.__class__)
        new.__dict__.update(self.__dict__)
        new.users = set()
        return new

    # --- its jobs ---

    def keep_value(self, value: int) -> None:
        """Set how much the job that makes this should be kept when cleaning, 0 to 99."""
        if self.creator is None:
            logging.warning(f"Keep value {value} of {self.path} has no effect: no job makes this path")
        else:
            self.creator.keep_value(value)

    def add_user(self, job: Job) -> None:
        """Note that ``job`` needs this path."""
        self.users.add(job)

    # --- deprecated: recipes read files themselves ---

    def is_zipped(self) -> bool:
        """Whether the file is compressed with gzip; deprecated."""
        return bool(self._measure("is_zipped"))

    def size(self) -> int:
        """Size of the file in bytes; deprecated."""
        return self._measure("size_in_bytes")

    def estimate_text_size(self) -> int:
        """Size of the text in the file in bytes, estimated if it is compressed; deprecated."""
        return self._measure("text_size_in_bytes")

    def lines(self) -> int:
        """Number of lines of the file; deprecated."""
        return self._measure("num_lines")

    def _measure(self, name: str) -> int:
        from sisyphus.paths import text_files

        logging.warning(f"{self.rel_path()}: measuring files through paths is deprecated, use your own code")
        measured: int = getattr(text_files, name)(self.get_path())
        return measured

    # --- pickling ---

    def __getstate__(self) -> dict[str, Any]:
        state = self.__dict__.copy()
        del state["users"]
        if not gs.INCLUDE_CREATOR_STATE and self.creator is not None:
            # a job's file would hold all of its ancestors otherwise
            state.update(creator=None, path=self.get_path(), _tags=set(self.tags))
            if self.hash_overwrite is not None:
                creator, path = self.hash_overwrite
                state["hash_overwrite"] = (_hashed_creator(creator), path)
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self.users = set()


class Path(AbstractPath):
    """A file or directory, see AbstractPath."""


class Variable(AbstractPath):
    """A file that holds one Python value.

    Args:
        path: as for Path.
        creator: the job that sets it.
        pickle: store any object, compressed, instead of readable text.
        backup: value as long as it is not set.
    """

    def __init__(self, path: str, creator: Any = None, pickle: bool = False, backup: Any = NoBackup) -> None:
        super().__init__(path, creator)
        self.pickle = pickle
        self.backup = backup

    def set(self, value: Any) -> None:
        """Write the value, in one step: readers never see half of it."""
        if self.pickle:
            import gzip
            import pickle

            content = gzip.compress(pickle.dumps(value))
        else:
            content = f"{value!r}\n".encode()
        write_atomically(self.get_path(), content)

    def get(self) -> Any:
        """Return the value, or the backup.

        Raises:
            VariableNotSet: without value and backup (with ``gs.RAISE_VARIABLE_NOT_SET_EXCEPTION``).
        """
        if finished_results_cache.has("value", self.rel_path()):
            return finished_results_cache.get("value", self.rel_path())
        path = self.get_path()
        if not os.path.isfile(path):
            return self._unset()
        value = self._read(path)
        if getattr(self.creator, "_sis_is_finished", False):
            finished_results_cache.remember_small("value", self.rel_path(), value, os.path.getsize(path))
        return value

    def _unset(self) -> Any:
        if self.backup is not NoBackup:
            return self.backup
        if gs.RAISE_VARIABLE_NOT_SET_EXCEPTION:
            raise VariableNotSet(
                f"{self.get_path()} is not set: its job did not run yet, or did not write it. Use delayed "
                "operations, tk.async_run, or a backup."
            )
        return f"<UNFINISHED VARIABLE: {self.get_path()}>"

    def _read(self, path: str) -> Any:
        import ast

        if self.pickle:
            import gzip
            import pickle

            with gzip.open(path, "rb") as compressed:
                return pickle.load(compressed)
        with open(path, encoding="utf-8") as file:
            text = file.read().strip()
        try:
            return ast.literal_eval(text)
        except (ValueError, SyntaxError):  # nan, inf, or the repr of an object
            return eval(text, {"nan": float("nan"), "inf": float("inf")})

    def is_set(self) -> bool:
        """Whether the value was written."""
        return os.path.isfile(self.get_path())

    def __str__(self) -> str:
        return str(self.get())

    def __repr__(self) -> str:
        if gs.LEGACY_VARIABLE_CONVERSION:
            return repr(self.get()) if self.is_set() else f"<Variable {self.rel_path()}>"
        if not self.is_set():
            return f"<Variable {self.rel_path()}>"
        return f"<Variable {self.rel_path()} {self.get()}>"
