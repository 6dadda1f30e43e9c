"""What is known to be finished, kept between runs of the manager (off by default).

A pickled dict: ``("job", path)`` and ``("available", relative path)`` to True, ``("value", relative path)``
to a small value.
"""

from __future__ import annotations

import logging
import os
from typing import Any

from sisyphus import global_settings as gs
from sisyphus.atomic_files import write_atomically


class FinishedResultsCache:
    """A dict that is kept in a file; nothing is remembered while the setting is off, or in workers."""

    def __init__(self) -> None:
        self._known: dict[tuple[str, str], Any] = {}
        self._was_read = False
        self._changed = False

    def _in_use(self) -> bool:
        """Whether the cache is on; what an earlier process knew is read when it is first asked for."""
        if not gs.CACHE_FINISHED_RESULTS or gs.active_engine is not None:
            return False
        if not self._was_read:
            self.read_from_file()
        return True

    def get(self, kind: str, path: str) -> Any:
        """Return what is remembered, or None."""
        return self._known.get((kind, path)) if self._in_use() else None

    def has(self, kind: str, path: str) -> bool:
        """Whether something is remembered."""
        return self._in_use() and (kind, path) in self._known

    def remember(self, kind: str, path: str, value: Any = True) -> None:
        """Remember a value, if the cache is on."""
        if self._in_use() and (kind, path) not in self._known:
            self._known[kind, path] = value
            self._changed = True

    def remember_small(self, kind: str, path: str, value: Any, size_bytes: int) -> None:
        """Remember a value whose file is not larger than the settings allow."""
        if size_bytes <= gs.CACHE_FINISHED_RESULTS_MAX_SIZE:
            self.remember(kind, path, value)

    def forget_job(self, folder: str) -> None:
        """Forget everything about a job and its outputs."""
        gone = [key for key in self._known if key[1] == folder or key[1].startswith(f"{folder}{os.sep}")]
        for key in gone:
            del self._known[key]
            self._changed = True

    def read_from_file(self) -> None:
        """Take over what an earlier process knew; a damaged file is ignored with a warning."""
        import pickle

        self._was_read = True
        try:
            with open(gs.CACHE_FINISHED_RESULTS_PATH, "rb") as file:
                self._known.update(pickle.load(file))
        except FileNotFoundError:
            return
        except (pickle.UnpicklingError, EOFError, TypeError, ValueError) as error:
            logging.warning(f"Cache of finished results is damaged, ignored: {error}")

    def write_to_file(self) -> None:
        """Write everything known, in one step, if something is new."""
        import pickle

        if not (self._in_use() and self._changed):
            return
        try:
            write_atomically(gs.CACHE_FINISHED_RESULTS_PATH, pickle.dumps(self._known))
        except OSError as error:  # it only saves time
            logging.warning(f"Cannot write the cache of finished results: {error}")
        self._changed = False


finished_results_cache = FinishedResultsCache()
