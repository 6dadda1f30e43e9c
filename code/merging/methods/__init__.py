"""Merge methods: the folder is the registry.

One method is one file: a frozen dataclass ``Options``, and ``merge(..., options)``, a pure function of
tensors that merges one parameter. The names of its parameters say what it needs; adding a method adds one
file and edits nothing.

A method may say ``is_elementwise(options)``; then it gets pieces of parameters, as vectors, which is several
times faster and needs little memory.

A method that needs a number of the whole model first has a second pure function ``summarize(parameters,
options) -> Summary``, and may take ``summary`` in ``merge``: ``parameters`` runs over all merged parameters
(or their pieces), each a mapping of the inputs of ``merge`` that reads a tensor when it is asked for. The
fields of a ``Summary`` are numbers and go into ``merge.json``.

A method whose result is a combination of the models, or of their differences to the base, may take ``watch``
(:class:`merging.methods._weights.Watch`, or None) and tell it each task's weights, for ``merge.json``.

An option whose value is a mapping goes from task to value and names every task.
"""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Collection, Mapping
from types import ModuleType
from typing import Any

from merging.errors import OptionError
from merging.options import parse
from merging.registry import Registry, unknown

_REGISTRY = Registry(__name__, __path__, "merge method")
_NOT_INPUTS = ("options", "summary", "watch")
_CHECKPOINTS = ("base", "models")

_HESSIAN_KEYS = ("hessian", "scale")


def names() -> tuple[str, ...]:
    """Names of all merge methods, sorted."""
    return _REGISTRY.names()


def load(name: str) -> ModuleType:
    """Import the file of one method.

    Raises:
        UnknownNameError: there is no such method; the text suggests the nearest name.
    """
    return _REGISTRY.load(name)


def inputs(name: str) -> tuple[str, ...]:
    """What a method needs, e.g. ``("base", "models", "hessians")``: the parameters of its ``merge``."""
    return tuple(key for key in inspect.signature(load(name).merge).parameters if key not in _NOT_INPUTS)


def check_call(
    method: str,
    options: Mapping[str, Any],
    extras: Mapping[str, Any],
    *,
    tasks: Collection[str] | None = None,
    has_base: bool = True,
) -> Any:
    """Check everything about a merge that needs no tensor; imports no torch.

    Args:
        method: name of a file in this folder.
        options: fields of its ``Options``.
        extras: its inputs beside base and models. Where the name is a plural, a mapping from task to value.
        tasks: names of the models, where they are known.
        has_base: whether a base model is given.

    Returns:
        The method's ``Options``.

    Raises:
        OptionError: unknown method, unknown or wrong option, missing or superfluous input, unknown task.
    """
    module = load(method)
    parsed = parse(module.Options, options, owner=method)
    if "base" in inputs(method) and not has_base:
        raise OptionError(f"{method}: missing base. Give the model that all others were fine-tuned from.")
    if tasks is not None and not tasks:
        raise OptionError(f"{method}: models is empty. Give at least one model, by task.")
    needed = [key for key in inputs(method) if key not in _CHECKPOINTS]
    for key in extras:
        if key not in needed:
            raise OptionError(f"{method}: {unknown('input', key, needed)}.")
    missing = [key for key in needed if key not in extras]
    if missing:
        raise OptionError(f"{method}: missing input {', '.join(map(repr, missing))}; the method needs it.")
    for key in needed:
        _check_input(method, key, extras[key], tasks)
    if tasks is not None:
        for field in dataclasses.fields(parsed):
            value = getattr(parsed, field.name)
            if isinstance(value, Mapping):
                _check_tasks(f"{method}: {field.name}", value, tasks)
    return parsed


def _check_input(method: str, key: str, value: object, tasks: Collection[str] | None) -> None:
    """One extra input: a folder, or a mapping from task to folder where the name is a plural."""
    if not key.endswith("s"):
        _check_hessian(f"{method}: {key}", value)
        return
    if not isinstance(value, Mapping):
        raise OptionError(f"{method}: {key} must be a mapping from task to folder, got {value!r}.")
    if tasks is not None:
        _check_tasks(f"{method}: {key}", value, tasks)
    for task, item in value.items():
        _check_hessian(f"{method}: {key}[{task!r}]", item)


def _check_hessian(owner: str, value: object) -> None:
    """A Hessian is a folder, or ``{"hessian": folder, "scale": number}``."""
    if not isinstance(value, Mapping):
        return
    for key in value:
        if key not in _HESSIAN_KEYS:
            raise OptionError(f"{owner}: {unknown('key', key, _HESSIAN_KEYS)}.")
    scale = value.get("scale")
    if "hessian" not in value:
        raise OptionError(f"{owner}: missing 'hessian', the folder.")
    if scale is not None and not (type(scale) is float and 0 < scale < float("inf")):
        raise OptionError(f"{owner}: scale must be a finite float > 0, got {scale!r}.")


def _check_tasks(owner: str, given: Collection[str], tasks: Collection[str]) -> None:
    """Whether a mapping names exactly the tasks of ``models``."""
    for task in given:
        if task not in tasks:
            raise OptionError(f"{owner}: {unknown('task', task, tasks)}.")
    missing = sorted(set(tasks) - set(given))
    if missing:
        raise OptionError(f"{owner}: no value for task {', '.join(map(repr, missing))}; name every task.")
