"""Merge methods explained from their own files: formula, inputs, options, defaults, source; without torch."""

from __future__ import annotations

import inspect
import textwrap

from merging import methods
from merging.option_fields import Field, fields


def overview() -> str:
    """All methods, a few lines each."""
    return "\n\n".join(_short(name) for name in methods.names()) + "\n"


def method(name: str) -> str:
    """Everything that one method's file says about itself.

    Raises:
        UnknownNameError: there is no such method.
    """
    document = inspect.getdoc(methods.load(name)) or ""
    inputs = methods.inputs(name)
    width = max(map(len, inputs))
    lines = [name, "=" * len(name), "", document, "", "Inputs"]
    lines += [f"  {key:<{width}}  {methods.INPUTS.get(key, '')}".rstrip() for key in inputs]
    lines += ["", "Options", *_options(fields(methods.load(name).Options))]
    lines += ["", "Example", f"  {example(name)}"]
    return "\n".join(lines) + "\n"


def formula(name: str) -> str:
    """The first indented block of a method's docstring."""
    document = inspect.getdoc(methods.load(name)) or ""
    blocks = [block for block in document.split("\n\n") if block.startswith("    ")]
    return textwrap.dedent(blocks[0]) if blocks else ""


def example(name: str) -> str:
    """A command line that runs a method on two tasks."""
    flags = {
        "base": "--base BASE",
        "models": "--models a=MODEL_A b=MODEL_B",
        "base_hessian": "--base-hessian HESSIAN",
        "hessians": "--hessians a=HESSIAN_A b=HESSIAN_B",
    }
    used = [flags.get(key, f"--{key.replace('_', '-')} ...") for key in methods.inputs(name)]
    return " ".join(["merging merge --method", name, *used, "--out MERGED"])


def _short(name: str) -> str:
    document = inspect.getdoc(methods.load(name)) or ""
    options = ", ".join(
        field.name if field.default is None else f"{field.name}={field.default}"
        for field in fields(methods.load(name).Options)
    )
    body = [
        document.split("\n\n")[0],
        textwrap.indent(formula(name), "  "),
        f"inputs: {', '.join(methods.inputs(name))}",
        f"options: {options or 'none'}",
    ]
    return name + "\n" + textwrap.indent("\n".join(body), "  ")


def _options(described: list[Field]) -> list[str]:
    if not described:
        return ["  none"]
    lines = []
    for field in described:
        default = "required" if field.default is None else f"default {field.default}"
        lines.append(f"  {field.name}: {field.type_text} ({default})")
        lines += textwrap.wrap(field.text, width=100, initial_indent="    ", subsequent_indent="    ")
    return lines
