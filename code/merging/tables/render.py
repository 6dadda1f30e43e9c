"""A table as Markdown, LaTeX and CSV. Pure; the same numbers give the same bytes.

Markdown and LaTeX are for reading: percent with one decimal. The CSV is for computing: unrounded fractions.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Sequence

from merging.tables.statistics import Estimate
from merging.tables.summary import Line, Table

MISSING = "–"


def markdown(table: Table) -> str:
    """The table as GitHub Markdown, with its title and footnotes."""
    head, *body = _cells(table)
    align = ["---", *["---:"] * (len(head) - 1)]
    rows = "\n".join(
        "| " + " | ".join(_escape_markdown(cell) for cell in row) + " |" for row in [head, align, *body]
    )
    notes = "\n".join(f"- {note}" for note in footnotes(table))
    return f"## {table.options.title}\n\n{rows}\n\n{notes}\n"


def latex(table: Table) -> str:
    """The table as LaTeX; needs the package booktabs."""
    head, *body = ([_escape_latex(cell) for cell in row] for row in _cells(table))
    rows = [" & ".join(row) + r" \\" for row in body]
    notes = " ".join(_escape_latex(_sentence(note)) for note in footnotes(table))
    return "\n".join(
        [
            r"% needs \usepackage{booktabs}",
            r"\begin{table}",
            r"\centering",
            rf"\caption{{{_escape_latex(_sentence(table.options.title))} {notes}}}",
            rf"\label{{tab:{table.options.label}}}",
            rf"\begin{{tabular}}{{l{'r' * (len(head) - 1)}}}",
            r"\toprule",
            " & ".join(head) + r" \\",
            r"\midrule",
            *rows,
            r"\bottomrule",
            r"\end{tabular}",
            r"\end{table}",
            "",
        ]
    )


def comma_separated(table: Table) -> str:
    """The table as CSV: for each score the value, its interval and its deviation over seeds, as fractions."""
    columns: dict[str, Callable[[Line], Estimate | None]] = {
        **{task: lambda line, task=task: line.tasks[task] for task in table.tasks},  # type: ignore[misc]
        "macro_mean": lambda line: line.macro,
        "per_example_mean": lambda line: line.per_example,
        "difference": lambda line: line.difference,
        "normalised": lambda line: line.normalised,
    }
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    parts = ("", "_low", "_high", "_deviation")
    varied: dict[str, Callable[[Line], float | None]] = {"scaling_factor": lambda line: line.scaling_factor}
    if table.options.parameter is not None:
        varied["parameter"] = lambda line: line.parameter
    writer.writerow(
        ["label", "kind", *varied, "num_seeds", *(name + part for name in columns for part in parts)]
    )
    for line in table.lines:
        places = [_number(read(line)) for read in varied.values()]
        numbers = [number for read in columns.values() for number in _numbers(read(line))]
        writer.writerow([line.label, line.kind, *places, len(table.seeds), *numbers])
    return text.getvalue()


def footnotes(table: Table) -> list[str]:
    """What a reader must know to read the numbers."""
    options = table.options
    sizes = ", ".join(f"{task} {table.num_examples[task]:,}" for task in table.tasks)
    num_seeds = len(table.seeds)
    seeds_text = ", ".join(map(str, table.seeds))
    what = (
        "Percent of test examples that are right"
        if options.metric == "accuracy"
        else f"{options.metric.replace('_', ' ')}, in percent"
    )
    notes = [
        f"{what}; examples: {sizes}.",
        f"mean: over the {_count(len(table.tasks), 'task')}; per-example: over all "
        f"{sum(table.num_examples.values()):,} test examples.",
        (
            f"One seed ({seeds_text})."
            if num_seeds == 1
            else f"Means over {num_seeds} seeds ({seeds_text}); ± is the standard deviation over seeds."
        ),
        f"[low, high]: 95 % interval, {options.bootstrap_samples:,} bootstrap resamples of the test examples "
        "within each task" + ("." if num_seeds == 1 else ", scores averaged over seeds."),
    ]
    if any(line.difference for line in table.lines):
        note = f"vs. {options.reference}: difference of means in points, same resamples on both sides"
        if any(line.label == options.reference and line.scaling_factor is not None for line in table.lines):
            note += (
                f"; at the same scaling factor, or at {options.reference_scaling_factor} for lines that have "
                "none"
            )
        notes.append(note + ".")
    if any(line.normalised for line in table.lines):
        notes.append(
            "normalised: score divided by that of the task's individual model, mean over tasks, in percent."
        )
    return notes


def _cells(table: Table) -> list[list[str]]:
    """Head and body as text, not yet escaped."""
    has_factor = any(line.scaling_factor is not None for line in table.lines)
    has_difference = any(line.difference for line in table.lines)
    has_normalised = any(line.normalised for line in table.lines)
    head = ["model", *table.tasks, "mean", "per-example"]
    parameter = table.options.parameter
    head[1:1] = (["α"] if has_factor else []) + ([] if parameter is None else [parameter])
    head += [f"vs. {table.options.reference}"] if has_difference else []
    head += ["normalised"] if has_normalised else []
    body = []
    for line in table.lines:
        row = [line.label]
        row += [_number(line.scaling_factor) or MISSING] if has_factor else []
        if parameter is not None:
            row += [MISSING if line.parameter is None else f"{line.parameter:g}"]
        row += [_score(line.tasks[task]) for task in table.tasks]
        row += [_score(line.macro, interval=True), _score(line.per_example)]
        row += [_score(line.difference, interval=True, sign=True)] if has_difference else []
        row += [_score(line.normalised)] if has_normalised else []
        body.append(row)
    return [head, *body]


def _score(estimate: Estimate | None, *, interval: bool = False, sign: bool = False) -> str:
    if estimate is None:
        return MISSING
    text = _percent(estimate.value, sign)
    if estimate.deviation is not None:
        text += f" ± {_percent(estimate.deviation)}"
    if interval:
        text += f" [{_percent(estimate.low, sign)}, {_percent(estimate.high, sign)}]"
    return text


def _percent(fraction: float, sign: bool = False) -> str:
    text = f"{100 * fraction:{'+' if sign else ''}.1f}"
    return text[1:] if text in ("-0.0", "+0.0") else text.replace("-", "−")


def _number(value: float | None) -> str:
    return "" if value is None else repr(value)


def _numbers(estimate: Estimate | None) -> Sequence[str]:
    if estimate is None:
        return ("",) * 4
    return [_number(value) for value in (estimate.value, estimate.low, estimate.high, estimate.deviation)]


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _sentence(text: str) -> str:
    return text if text.endswith(".") else text + "."


def _escape_markdown(text: str) -> str:
    return text.replace("|", r"\|")


_LATEX = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "±": r"$\pm$",
    "α": r"$\alpha$",
    "δ": r"$\delta$",
    "₀": r"$_0$",
    "–": "--",
    "−": "$-$",
    **{character: "\\" + character for character in "&%$#_{}"},
}


def _escape_latex(text: str) -> str:
    return "".join(_LATEX.get(character, character) for character in text)
