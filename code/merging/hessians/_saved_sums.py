"""What an estimate keeps on disk while it runs, so that a killed one goes on: the sums, and how far they go.

In the work folder, for each process: ``sums-<rank>.pt``, replaced now and then, and ``half-<rank>.pt``, the
sums after the first half of the examples. Each file is one ``rename``, so it is whole or not there.
"""

from __future__ import annotations

import json
import pickle
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from merging.errors import OptionError
from merging.files.checkpoints import check_disk_space
from merging.hessians._statistics import Sums

SUMS_PATTERN = "sums-*.pt"
"""Files that an estimate can go on from."""


@dataclass(frozen=True)
class Position:
    """How far an estimate is."""

    num_done: int
    """Examples of this process's share, in their order."""
    seconds: float
    """Time that this and earlier runs took."""


class SavedSums:
    """The saved sums of one process."""

    def __init__(
        self, folder: Path, rank: int, sums: Mapping[str, Sums], identity: Mapping[str, Any]
    ) -> None:
        """Keep ``sums`` in ``folder``.

        Args:
            folder: the work folder of the estimate; made if need be.
            rank: number of this process.
            sums: by estimator.
            identity: everything that the sums depend on, as JSON can hold it.
        """
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._sums = sums
        self._identity = json.loads(json.dumps(identity))
        self._file = folder / f"sums-{rank}.pt"
        self._half = folder / f"half-{rank}.pt"

    def resume(self, *, half: int | None) -> Position | None:
        """Put the saved sums back; None if there are none, and the estimate starts at its beginning.

        Args:
            half: number of examples after which the sums of the first half are kept; None: never.

        Raises:
            OptionError: the folder holds another estimate.
        """
        saved = self._read(self._file)
        if saved is None:
            return None
        differing = sorted(
            key for key, value in self._identity.items() if saved["identity"].get(key) != value
        )
        if differing:
            raise OptionError(
                f"work folder {self._folder} holds an unfinished estimate with another "
                f"{', '.join(differing)}. Give this estimate a folder of its own, or remove that one."
            )
        if half is not None and saved["num_done"] >= half and not self._half.exists():
            return None
        self._restore(saved)
        return Position(saved["num_done"], saved["seconds"])

    def save(self, position: Position) -> None:
        """Write the sums, in place of what was saved before.

        Raises:
            DiskSpaceError: there is no room; what was saved before is kept.
        """
        self._write(self._file, position)

    def save_half(self, position: Position) -> None:
        """Write the sums of the first half of the share.

        Raises:
            DiskSpaceError: there is no room.
        """
        self._write(self._half, position)

    def restore_half(self) -> None:
        """Put the sums of the first half back; those of all examples are lost."""
        saved = self._read(self._half)
        assert saved is not None, "written when the first half was done"
        self._restore(saved)

    def remove(self) -> None:
        """The estimate is published."""
        self._file.unlink(missing_ok=True)
        self._half.unlink(missing_ok=True)

    def _write(self, file: Path, position: Position) -> None:
        content = {
            "identity": json.dumps(self._identity),
            "num_done": position.num_done,
            "seconds": position.seconds,
            "totals": {name: sums.totals() for name, sums in self._sums.items()},
            "counts": {name: sums.counts() for name, sums in self._sums.items()},
        }
        check_disk_space(self._folder, sum(sums.num_bytes() for sums in self._sums.values()))
        temporary = file.with_suffix(".new")
        try:
            torch.save(content, temporary)
            temporary.replace(file)
        finally:
            temporary.unlink(missing_ok=True)

    def _read(self, file: Path) -> dict[str, Any] | None:
        if not file.exists():
            return None
        try:
            saved: dict[str, Any] = torch.load(file, map_location="cpu", weights_only=True, mmap=True)
        except (RuntimeError, pickle.UnpicklingError, zipfile.BadZipFile, EOFError) as error:
            raise OptionError(
                f"{file} is damaged: {error}. Remove it, and the estimate starts at its beginning."
            ) from error
        return saved | {"identity": json.loads(saved["identity"])}

    def _restore(self, saved: Mapping[str, Any]) -> None:
        for name, sums in self._sums.items():
            for key, total in sums.totals().items():
                total.copy_(saved["totals"][name][key])
            sums.set_counts(saved["counts"][name])
