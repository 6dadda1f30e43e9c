"""Which job folders there are, without asking for each of them."""

from __future__ import annotations

import os

_WORTH_A_LISTING = 4
"""So many questions about one directory are answered one by one; then it is listed."""


class JobFolders:
    """What one look at the directories of job folders shows; to be made anew for the next look."""

    def __init__(self) -> None:
        self._names: dict[str, frozenset[str]] = {}
        self._num_questions: dict[str, int] = {}

    def lack(self, path: str) -> bool:
        """Whether there is nothing of this name, not even a link."""
        directory, _, name = path.rpartition("/")
        names = self._names.get(directory)
        if names is None:
            asked = self._num_questions[directory] = self._num_questions.get(directory, 0) + 1
            if asked <= _WORTH_A_LISTING:
                return not os.path.lexists(path)
            names = self._names[directory] = _listing(directory)
        return name not in names


def _listing(directory: str) -> frozenset[str]:
    try:
        return frozenset(os.listdir(directory or "."))
    except (FileNotFoundError, NotADirectoryError):
        return frozenset()
