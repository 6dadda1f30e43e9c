"""Values as plain trees: what two processes, two revisions or two folders can compare without the classes.

A leaf is a type and a text. Anything that consists of parts has them by label, as one would write them in
Python: ``['alpha']`` in a dict, ``[0]`` in a list, ``.name`` of an object. An output of a job is a leaf that
names the job, so that whoever compares can go on there.
"""

from __future__ import annotations

import ast
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from sisyphus import global_settings as gs

LONGEST_TEXT = 4096
"""Letters of a leaf that are kept; of a longer one also the length and SHA-256, so that it still compares."""


TEXT = "text"
"""Kind of a value of which only the text is known, not the type."""


@dataclass(frozen=True)
class Node:
    """One value."""

    kind: str
    """Name of the type."""
    text: str = ""
    """Of a leaf: as Python writes it. Of an output of a job: its path below ``output/``."""
    parts: Mapping[str, Node] = field(default_factory=dict)
    job: str = ""
    """Id of the job that makes this path."""

    def __str__(self) -> str:
        if self.job:
            return f"{self.job}/{gs.JOB_OUTPUT}/{self.text}".rstrip("/")
        if not self.parts:
            return self.text
        opening, closing = _BRACKETS.get(self.kind, (f"{self.kind}(", ")"))
        return f"{opening}{', '.join(self._items())}{closing}"

    def _items(self) -> list[str]:
        if self.kind in ("list", "tuple", "set", "frozenset"):
            return [str(part) for part in self.parts.values()]
        if self.kind == "dict":
            return [f"{label[1:-1]}: {part}" for label, part in self.parts.items()]
        return [f"{label.removeprefix('.')}={part}" for label, part in self.parts.items()]

    def is_like(self, other: Node) -> bool:
        """Whether two values are equal, as far as is known of both."""
        if self.kind == other.kind or TEXT not in (self.kind, other.kind):
            return self == other
        if self.job or other.job:
            return (self.job, self.text) == (other.job, other.text)
        return self._as_info() == other._as_info()

    def _as_info(self) -> str:
        """As an info file has it: texts without quotes."""
        return (
            str(ast.literal_eval(self.text)) if self.kind == "str" and self.text[-1:] in "'\"" else str(self)
        )

    def as_json(self) -> dict[str, Any]:
        """Return it as plain data, see :func:`from_json`."""
        plain: dict[str, Any] = {"kind": self.kind}
        if self.text:
            plain["text"] = self.text
        if self.job:
            plain["job"] = self.job
        if self.parts:
            plain["parts"] = {label: part.as_json() for label, part in self.parts.items()}
        return plain


_BRACKETS = {
    "list": ("[", "]"),
    "tuple": ("(", ")"),
    "set": ("{", "}"),
    "frozenset": ("frozenset({", "})"),
    "dict": ("{", "}"),
}

MISSING = Node("missing", "<not there>")
"""Stands for what only the other one has."""


def from_json(plain: Mapping[str, Any]) -> Node:
    """Return the node that :meth:`Node.as_json` made this of."""
    parts = {label: from_json(part) for label, part in plain.get("parts", {}).items()}
    return Node(plain["kind"], plain.get("text", ""), parts, plain.get("job", ""))


def leaf(kind: str, text: str) -> Node:
    """Return a leaf; a very long text is cut, and told from others by its hash."""
    if len(text) > LONGEST_TEXT:
        digest = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
        text = f"{text[:LONGEST_TEXT]}... ({len(text)} letters, sha256 {digest})"
    return Node(kind, text)


class Place(NamedTuple):
    """Where a file lies: below the outputs of a job, or (job empty) outside of all jobs."""

    job: str
    path: str


def place_of(path: str) -> Place:
    """Tell which job a path belongs to, by its text alone: saved jobs name their inputs by absolute paths.

    Args:
        path: e.g. ``/somewhere/work/recipe/train/TrainJob.abcdefghijkl/output/model``; the project may have
            been moved since.
    """
    names = path.split("/")
    work = gs.WORK_DIR.rstrip("/").rsplit("/", 1)[-1]
    for index in range(1, len(names)):
        if names[index] == gs.JOB_OUTPUT and "." in names[index - 1] and work in names[:index]:
            first = index - names[index - 1 :: -1].index(work)
            return Place("/".join(names[first:index]), "/".join(names[index + 1 :]))
    return Place("", path)
