"""What a table is made of; checked while the graph is built, so nothing heavy is imported here."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from merging.errors import OptionError
from merging.options import parse

Kind = Literal["base", "individual", "multitask", "merged"]
LineKey = tuple[str, float | None]
"""Label and scaling factor: what makes one line of the table."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """One evaluation and the line of the table it belongs to.

    Evaluations with the same label, scaling factor and seed are put together, so "individual" is made of one
    evaluation a task, each by that task's own model.
    """

    label: str
    """Text of the first column, e.g. "gradient matching"."""
    kind: Kind
    """base, individual and multitask are horizontal lines in the plot; individual is what scores are
    normalised by."""
    seed: int
    """Seed of the run; results are averaged over seeds."""
    evaluation: Any
    """Folder made by :func:`merging.evaluation.run.evaluate`: a path, or a job's output."""
    scaling_factor: float | None = None
    """alpha, or None where there is none."""

    def __post_init__(self) -> None:
        if not self.label.strip():
            raise OptionError("row: label must not be empty.")
        if self.seed < 0:
            raise OptionError(f"row {self.label!r}: seed must be >= 0, got {self.seed}.")

    @property
    def key(self) -> LineKey:
        """What makes one line of the table."""
        return self.label, self.scaling_factor


@dataclass(frozen=True, kw_only=True)
class TableOptions:
    """How results become a table."""

    title: str = "Results"
    """Caption of the table and of the plot."""
    reference: str | None = "task arithmetic"
    """Label of the line that others are compared with, at the same scaling factor; None: no comparison."""
    reference_scaling_factor: float = 1.0
    """Scaling factor of the reference for lines that have none themselves."""
    bootstrap_samples: int = 10_000
    """Resamples of the test examples behind each interval."""
    seed: int = 0
    """Seed of the resampling."""
    label: str = "results"
    """Name that LaTeX refers to: ``\\ref{tab:<label>}``."""

    def __post_init__(self) -> None:
        if self.bootstrap_samples < 100:
            raise OptionError(
                f"table: bootstrap_samples must be >= 100, got {self.bootstrap_samples}; "
                "fewer resamples have no 2.5 % tail."
            )
        if self.seed < 0:
            raise OptionError(f"table: seed must be >= 0, got {self.seed}.")
        if not re.fullmatch(r"[A-Za-z0-9:._-]+", self.label):
            raise OptionError(
                f"table: label may hold letters, digits and : . _ - only, because LaTeX reads it; "
                f"got {self.label!r}."
            )


def check(rows: Sequence[Mapping[str, Any]], options: Mapping[str, Any]) -> tuple[list[Row], TableOptions]:
    """Parse rows and options, and check that they fit each other.

    Raises:
        OptionError: no rows, a misspelt key, a wrong type, lines with different seeds, one label with two
            kinds, or a reference that is not among the rows.
    """
    parsed = [parse(Row, row, owner=f"row {number}") for number, row in enumerate(rows, start=1)]
    table = parse(TableOptions, options, owner="table")
    if not parsed:
        raise OptionError("table: there are no rows. Give at least one evaluation.")
    _check_seeds(parsed)
    _check_kinds(parsed)
    _check_reference(parsed, table)
    return parsed, table


def lines(rows: Sequence[Row]) -> list[LineKey]:
    """The lines of the table, in the order of their first row."""
    return list(dict.fromkeys(row.key for row in rows))


def seeds(rows: Sequence[Row]) -> list[int]:
    """All seeds, sorted."""
    return sorted({row.seed for row in rows})


def describe(key: LineKey) -> str:
    """Text for error messages: "gradient matching" or "gradient matching at 0.5"."""
    label, scaling_factor = key
    return repr(label) if scaling_factor is None else f"{label!r} at scaling factor {scaling_factor}"


def _check_seeds(rows: Sequence[Row]) -> None:
    expected = seeds(rows)
    for key in lines(rows):
        found = sorted({row.seed for row in rows if row.key == key})
        if found != expected:
            raise OptionError(
                f"table: line {describe(key)} has seeds {found}, the table has {expected}. "
                "Every line needs an evaluation for every seed, or means are not comparable."
            )


def _check_kinds(rows: Sequence[Row]) -> None:
    kinds: dict[str, str] = {}
    for row in rows:
        if kinds.setdefault(row.label, row.kind) != row.kind:
            raise OptionError(
                f"table: label {row.label!r} is used for kind {kinds[row.label]!r} and {row.kind!r}. "
                "Give them different labels."
            )
    individual = sorted(label for label, kind in kinds.items() if kind == "individual")
    if len(individual) > 1:
        raise OptionError(f"table: only one label may be of kind 'individual', got {individual}.")


def _check_reference(rows: Sequence[Row], options: TableOptions) -> None:
    if options.reference is None:
        return
    known = lines(rows)
    if options.reference not in {label for label, _ in known}:
        raise OptionError(
            f"table: reference {options.reference!r} is no row; rows are "
            f"{sorted({label for label, _ in known})}. Name one of them, or None for no comparison."
        )
    factors = [factor for label, factor in known if label == options.reference]
    if options.reference_scaling_factor not in factors and None not in factors:
        raise OptionError(
            f"table: reference {options.reference!r} has no row with scaling factor "
            f"{options.reference_scaling_factor}; it has {factors}. "
            "Set reference_scaling_factor to one of them."
        )
