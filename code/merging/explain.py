"""Merge methods and estimators explained from their own files, without torch: formula, inputs, options,
defaults, source, what they cost."""

from __future__ import annotations

import dataclasses
import inspect
import textwrap
from collections.abc import Iterable
from typing import Any

from merging import hessians, methods
from merging.option_fields import Field, fields

_EXAMPLES = {
    "base": "--base BASE",
    "models": "--models a=MODEL_A b=MODEL_B",
    "initial": "--initial MERGED",
    "base_hessian": "--base-hessian HESSIAN",
    "hessians": "--hessians a=HESSIAN_A b=HESSIAN_B",
    "grams": "--grams a=GRAM_A b=GRAM_B",
    "base_factors": "--base-factors FACTORS",
    "factors": "--factors a=FACTORS_A b=FACTORS_B",
    "blocks": "--blocks a=BLOCKS_A b=BLOCKS_B",
    "mask_fishers": "--mask-fishers a=MASKS_A b=MASKS_B",
}
_ONE_MODEL = "--models a=MODEL_A"

_DIAGONALS = ("base_hessian", "hessians")

GROUPS = (
    "From the models alone, or with their base",
    "The same, and also one model for each task (option task)",
    "With diagonal Hessians (merging hessian)",
    "With statistics of whole layers, blocks or masks (merging hessian --estimator ...)",
)
"""What methods are grouped by: what they need, and what they give."""

_MEMORY = {
    "elements": "small pieces of a parameter: any model fits",
    "rows": "rows of a parameter: any model fits",
    "parameter": "whole parameters: the largest one, of every input, has to fit",
}

_STATISTICS = {
    "diagonal": "diagonal, for --hessians and --base-hessian",
    "gram": "Gram matrices of the inputs of linear layers, for --grams",
    "kfac": "K-FAC factors of linear layers, for --factors, --base-factors and --grams",
    "block": "full blocks of short vectors such as (IA)3, for --blocks",
    "mask_nodes": "Fishers of masks on heads and neurons, for --mask-fishers",
}


def overview() -> str:
    """All methods by group, a few lines each, and at the end one line each."""
    groups = {title: [name for name in methods.names() if group(name) == title] for title in GROUPS}
    width = max(map(len, methods.names()))
    parts, lines = [], []
    for title, names in groups.items():
        if names:
            parts += [f"{title}\n{'=' * len(title)}", *map(_short, names)]
            lines += ["", title, *(f"  {name:<{width}}  {_title(name)}" for name in names)]
    end = ["In one line each", "================", *lines, "", "merging methods NAME explains one."]
    return "\n\n".join([*parts, "\n".join(end)]) + "\n"


def group(name: str) -> str:
    """The group of a method: one of ``GROUPS``."""
    statistics = [key for key in methods.inputs(name) if not methods.is_model(key)]
    if not statistics:
        return GROUPS["task" in {field.name for field in options_of(name)}]
    return GROUPS[2] if set(statistics) <= set(_DIAGONALS) else GROUPS[3]


def method(name: str) -> str:
    """Everything that one method's file says about itself.

    Raises:
        UnknownNameError: there is no such method.
    """
    document = inspect.getdoc(methods.load(name)) or ""
    inputs = _inputs(name)
    width = max(map(len, inputs))
    lines = [name, "=" * len(name), "", document, "", "Inputs"]
    lines += [f"  {key:<{width}}  {text}" for key, text in inputs.items()]
    lines += ["", "Options", *_options(options_of(name))]
    lines += ["", "Runs", *(f"  {line}" for line in _running(name))]
    lines += ["", "Example", f"  {example(name)}"]
    return "\n".join(lines) + "\n"


def formula(name: str) -> str:
    """The first indented block of a method's docstring."""
    document = inspect.getdoc(methods.load(name)) or ""
    blocks = [block for block in document.split("\n\n") if block.startswith("    ")]
    return textwrap.dedent(blocks[0]) if blocks else ""


def first_paragraph(name: str) -> str:
    """What a method is, and where it is from: the first paragraph of its docstring."""
    return (inspect.getdoc(methods.load(name)) or "").split("\n\n")[0]


def example(name: str) -> str:
    """A command line that runs a method on two tasks, or on one where it takes one."""
    high = getattr(methods.load(name), "NUM_MODELS", (1, None))[1]
    needed = methods.required_inputs(name, _defaults(name))
    flags = [
        _ONE_MODEL if key == "models" and high == 1 else _EXAMPLES[key]
        for key in methods.inputs(name)
        if key in needed
    ]
    return " ".join(["merging merge --method", name, *flags, "--out MERGED"])


def options_of(name: str) -> list[Field]:
    """The options of a method."""
    return fields(methods.load(name).Options)


def defaults_of(name: str) -> dict[str, Any]:
    """The options of a method where nothing is given, by name."""
    return dataclasses.asdict(methods.load(name).Options())


def estimators() -> str:
    """All estimators of Hessians and other statistics, a few lines each."""
    return "\n\n".join(map(_estimator, hessians.names())) + "\n"


def estimator(name: str) -> str:
    """Everything that one estimator's file says about itself.

    Raises:
        UnknownNameError: there is no such estimator.
    """
    document = inspect.getdoc(hessians.load(name)) or ""
    facts = "\n".join(f"  {line}" for line in _estimator_facts(name))
    return f"{name}\n{'=' * len(name)}\n\n{document}\n\n{facts}\n"


def estimator_title(name: str) -> str:
    """What an estimator makes, in a few words."""
    return _STATISTICS[hessians.load(name).STATISTIC]


def _defaults(name: str) -> Any:
    """The options of a method where nothing is given."""
    return methods.load(name).Options()


def _title(name: str) -> str:
    """The first paragraph of a docstring, on one line."""
    return " ".join(first_paragraph(name).split()).rstrip(".")


def _inputs(name: str) -> dict[str, str]:
    """Every input with what it is, and whether it is needed."""
    needed = methods.required_inputs(name, _defaults(name))
    return {
        key: methods.INPUTS[key] + ("" if key in needed else " (only needed by some options, or optional)")
        for key in methods.inputs(name)
    }


def _running(name: str) -> list[str]:
    """Number of models, pieces, passes, randomness."""
    module = methods.load(name)
    low, high = getattr(module, "NUM_MODELS", (1, None))
    number = f"{low}" if high == low else f"{low} or more" if high is None else f"{low} to {high}"
    beside = " beside the base" if "base" in methods.inputs(name) else ""
    lines = [f"models: {number}{beside}"]
    lines += [f"memory: {_MEMORY[methods.granularity(name, _defaults(name))]}"]
    passes = [what for key, what in _PASSES.items() if hasattr(module, key)]
    lines += [f"reads first: {' and '.join(passes) if passes else 'nothing; one pass'}"]
    seeded = "seed" in {field.name for field in options_of(name)}
    lines += [f"random: {'yes; the same seed gives the same model' if seeded else 'no'}"]
    return lines


_PASSES = {
    "measure": "numbers of each parameter",
    "summarize": "numbers of the whole model (another pass over the inputs)",
}


def _short(name: str) -> str:
    options = ", ".join(
        field.name if field.default is None else f"{field.name}={field.default}" for field in options_of(name)
    )
    body = [
        first_paragraph(name),
        textwrap.indent(formula(name), "  "),
        f"inputs: {', '.join(_marked(name))}",
        f"options: {options or 'none'}",
    ]
    return name + "\n" + textwrap.indent("\n".join(body), "  ")


def _marked(name: str) -> Iterable[str]:
    """Inputs, those that may be missing in brackets."""
    needed = methods.required_inputs(name, _defaults(name))
    return (key if key in needed else f"[{key}]" for key in methods.inputs(name))


def _options(described: list[Field]) -> list[str]:
    if not described:
        return ["  none"]
    lines = []
    for field in described:
        default = "required" if field.default is None else f"default {field.default}"
        lines.append(f"  {field.name}: {field.type_text} ({default})")
        lines += textwrap.wrap(field.text, width=100, initial_indent="    ", subsequent_indent="    ")
    return lines


def _estimator(name: str) -> str:
    document = (inspect.getdoc(hessians.load(name)) or "").split("\n\n")[0]
    return name + "\n" + textwrap.indent("\n".join([document, *_estimator_facts(name)]), "  ")


def _estimator_facts(name: str) -> list[str]:
    its = hessians.load(name)
    return [
        f"makes: {estimator_title(name)}",
        f"labels: {'of the data' if its.NEEDS_LABELS else 'none'}{', drawn by a seed' * its.SAMPLES_LABELS}",
    ]
