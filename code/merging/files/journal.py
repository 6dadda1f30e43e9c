"""What an interrupted piece of work has already written, so that it goes on where it stopped."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

NAME = "journal.json"


def key_of(description: Mapping[str, Any]) -> str:
    """Name a piece of work by everything that its files depend on, as plain values."""
    text = json.dumps(description, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()


class Journal:
    """The complete files of a work folder.

    It survives a killed process; not a machine that loses power, whose file system may forget what was not
    synchronised (files that are shorter than they were are written again).
    """

    def __init__(self, folder: Path, key: str) -> None:
        """Open the journal of ``folder``, and remove what is not complete or belongs to another ``key``."""
        self.folder = folder
        self._key = key
        self._files: dict[str, int] = {}
        self.state: Any = None
        """What was told with the last complete file; None before the first."""
        self._load()
        for path in folder.iterdir():
            if path.name == NAME or path.name in self._files:
                continue
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink()

    @property
    def is_empty(self) -> bool:
        """Whether no file is complete."""
        return not self._files

    def has(self, file: str) -> bool:
        """Whether a file of the folder is complete."""
        return file in self._files

    def add(self, file: str, state: Any) -> None:
        """A file is complete; ``state``, as JSON can hold it, is what has to be known to go on."""
        self._files[file] = (self.folder / file).stat().st_size
        self.state = state
        temporary = self.folder / (NAME + ".new")
        temporary.write_text(json.dumps({"key": self._key, "files": self._files, "state": state}))
        temporary.replace(self.folder / NAME)

    def remove(self) -> None:
        """The work is done."""
        (self.folder / NAME).unlink(missing_ok=True)

    def _load(self) -> None:
        try:
            stored = json.loads((self.folder / NAME).read_text())
        except FileNotFoundError:
            return
        except ValueError:  # cut off when the disk became full
            stored = {}
        if stored.get("key") != self._key:
            self.remove()
            return
        files: dict[str, int] = stored["files"]
        paths = {name: self.folder / name for name in files}
        if all(path.is_file() and path.stat().st_size == files[name] for name, path in paths.items()):
            self._files, self.state = files, stored["state"]
        else:
            self.remove()
