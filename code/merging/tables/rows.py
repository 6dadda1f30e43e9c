"""What a table is made of; checked while the graph is built, so nothing heavy is imported here."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from merging.errors import OptionError
from merging.evaluation import metrics
from merging.options import parse

Kind = Literal["base", "individual", "multitask", "merged"]


class LineKey(NamedTuple):
    """What makes one line of the table."""

    label: str
    scaling_factor: float | None = None
    parameter: float | None = None


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
    parameter: float | None = None
    """What the table varies beside alpha, > 0, or None; see ``TableOptions.parameter``."""

    def __post_init__(self) -> None:
        if not self.label.strip():
            raise OptionError("row: label must not be empty.")
        if self.parameter is not None and not self.parameter > 0:
            raise OptionError(
                f"row {self.label!r}: parameter must be > 0, because its axis is logarithmic; "
                f"got {self.parameter}."
            )
        if self.seed < 0:
            raise OptionError(f"row {self.label!r}: seed must be >= 0, got {self.seed}.")

    @property
    def key(self) -> LineKey:
        """What makes one line of the table."""
        return LineKey(self.label, self.scaling_factor, self.parameter)


@dataclass(frozen=True, kw_only=True)
class TableOptions:
    """How results become a table."""

    metric: str = "accuracy"
    """What the numbers are: a folder in ``evaluation/metrics`` that is a share and a function of sums over
    examples, e.g. the main metric of a task type."""
    title: str = "Results"
    """Caption of the table and of the plot."""
    reference: str | None = "task arithmetic"
    """Label of the line that others are compared with, at the same scaling factor; None: no comparison."""
    reference_scaling_factor: float = 1.0
    """Scaling factor of the reference for lines that have none themselves."""
    parameter: str | None = None
    """What the rows' ``parameter`` is, e.g. "examples": heads its column, and is the horizontal axis of the
    plot. None: rows have none, and that axis is the scaling factor."""
    bootstrap_samples: int = 10_000
    """Resamples of the test examples behind each interval."""
    seed: int = 0
    """Seed of the resampling."""
    label: str = "results"
    """Name that LaTeX refers to: ``\\ref{tab:<label>}``."""

    def __post_init__(self) -> None:
        metrics.check(self.metric)
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
    _check_parameter(parsed, table)
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
    numbers = {"scaling factor": key.scaling_factor, "parameter": key.parameter}
    places = [f"{name} {value}" for name, value in numbers.items() if value is not None]
    return " at ".join([repr(key.label), *places])


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


def _check_parameter(rows: Sequence[Row], options: TableOptions) -> None:
    named = next((row for row in rows if row.parameter is not None), None)
    if options.parameter is None and named is not None:
        raise OptionError(
            f"table: row {named.label!r} has parameter {named.parameter}, but the table does not say what "
            'that is. Set parameter in its options, e.g. to "examples".'
        )
    if options.parameter is not None and named is None:
        raise OptionError(
            f"table: parameter is {options.parameter!r}, but no row has one. Give rows one, or leave it out."
        )


def _check_reference(rows: Sequence[Row], options: TableOptions) -> None:
    if options.reference is None:
        return
    known = lines(rows)
    labels = {key.label for key in known}
    if options.reference not in labels:
        raise OptionError(
            f"table: reference {options.reference!r} is no row; rows are "
            f"{sorted(labels)}. Name one of them, or None for no comparison."
        )
    factors = [key.scaling_factor for key in known if key.label == options.reference]
    if options.reference_scaling_factor not in factors and None not in factors:
        raise OptionError(
            f"table: reference {options.reference!r} has no row with scaling factor "
            f"{options.reference_scaling_factor}; it has {factors}. "
            "Set reference_scaling_factor to one of them."
        )
