"""Tasks that wait for room on this machine: first come, first served, as far as it fits."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sisyphus.engines.base import Requirements

Key = tuple[str, int]
"""Queue name and task id."""

Amounts = tuple[float, ...]
"""How much is asked for of each resource that the engine counts."""


@dataclass
class Entry:
    """One task id that is queued or running."""

    key: Key
    rqmt: Requirements
    call: list[str] = field(default_factory=list)
    log: str = ""
    markers: tuple[str, ...] = ()
    """Files of which one is there when the task ended by itself: finished, error."""
    record: str = ""
    pid: int | None = None
    devices: list[str] = field(default_factory=list)


class LocalQueue:
    """Entries in their order; finding the first that fits takes no longer when many wait.

    Entries that ask for the same share a line of their own, and only the first of each line is looked at.
    """

    def __init__(self) -> None:
        self._lines: dict[Amounts, OrderedDict[Key, tuple[int, Entry]]] = {}
        self._amounts: dict[Key, Amounts] = {}
        self._num_added = 0

    def __contains__(self, key: Key) -> bool:
        return key in self._amounts

    def __iter__(self) -> Iterator[Entry]:
        """All entries, line by line."""
        return (entry for line in self._lines.values() for _, entry in line.values())

    def add(self, entry: Entry, amounts: Amounts) -> None:
        """Put an entry at the end; one of the same key leaves."""
        self.remove(entry.key)
        self._num_added += 1
        self._lines.setdefault(amounts, OrderedDict())[entry.key] = (self._num_added, entry)
        self._amounts[entry.key] = amounts

    def remove(self, key: Key) -> None:
        """Take an entry out, if it is there."""
        amounts = self._amounts.pop(key, None)
        if amounts is not None:
            line = self._lines[amounts]
            del line[key]
            if not line:
                del self._lines[amounts]

    def clear(self) -> None:
        """Take all out."""
        self._lines.clear()
        self._amounts.clear()

    def take_first(self, fits: Callable[[Amounts], bool]) -> Entry | None:
        """Take out the first entry whose amounts fit; None if none does."""
        heads = [next(iter(line.values())) for amounts, line in self._lines.items() if fits(amounts)]
        if not heads:
            return None
        _, entry = min(heads, key=lambda head: head[0])
        self.remove(entry.key)
        return entry
