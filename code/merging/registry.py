"""A folder of modules as a registry: adding a member adds one file and edits nothing.

Also the one place that answers a misspelt name with "Did you mean …?".
"""

from __future__ import annotations

import difflib
import importlib
import pkgutil
from collections.abc import Collection, Iterable
from types import ModuleType

from merging.errors import UnknownNameError


def unknown(what: str, name: str, known: Iterable[str]) -> str:
    """Return the text "unknown <what> '<name>'. Did you mean …? Known: …"."""
    choices = sorted(known)
    close = difflib.get_close_matches(name, choices, n=1)
    hint = f" Did you mean {close[0]!r}?" if close else ""
    return f"unknown {what} {name!r}.{hint} Known: {', '.join(choices) or 'none'}"


class Registry:
    """The public modules of one package, by name; files that start with ``_`` are not members."""

    def __init__(
        self, package: str, paths: Iterable[str], what: str, *, exclude: Collection[str] = ()
    ) -> None:
        """Index the folder ``paths`` of ``package``.

        Args:
            package: its dotted name.
            paths: its ``__path__``.
            what: names a member in error messages.
            exclude: public modules of the folder that are no members.
        """
        self._package = package
        self._what = what
        self._names = tuple(
            sorted(
                info.name
                for info in pkgutil.iter_modules(paths)
                if not info.name.startswith("_") and info.name not in exclude
            )
        )

    def names(self) -> tuple[str, ...]:
        """Names of all members, sorted."""
        return self._names

    def load(self, name: str) -> ModuleType:
        """Import a member.

        Raises:
            UnknownNameError: there is no such file in the folder.
        """
        if name not in self._names:
            raise UnknownNameError(unknown(self._what, name, self._names))
        return importlib.import_module(f"{self._package}.{name}")
