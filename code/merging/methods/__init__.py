"""Merge methods: the folder is the registry.

One method is one file: a frozen dataclass ``Options``, and ``merge(..., options)``, a pure function of
tensors that merges one parameter. The names of its parameters say what it needs (``INPUTS``); one with a
default is optional. Adding a method adds one file and edits nothing.

Beside inputs, ``merge`` may take ``options`` (resolved for this parameter), ``parameter``
(:class:`merging.methods._seam.Parameter`), ``summary``, ``measure``, ``watch``
(:class:`merging.methods._weights.Watch`: told the combination weights) and ``report``
(:class:`merging.methods._seam.Report`: told numbers for ``merge.json``).

What else a method's file may say:

``granularity(options)``
    ``"elements"``: ``merge`` may be given any piece of a parameter as a vector, which is several times faster
    and needs little memory; ``"rows"``: some of its rows. Without it, ``merge`` gets whole parameters.
``measure(pieces, options)``
    Numbers of one parameter (norms, a threshold), taken before ``merge`` sees its pieces.
``summarize(parameters, options)``
    Numbers of the whole model; the fields of what it returns go into ``merge.json``.
``required(options)``
    Optional inputs that these options do need.
``needs_layout(options)``
    Whether it matters that a parameter is stored transposed.
``working_bytes(shape, num_models)``
    What ``merge`` holds of a parameter at its peak, beyond twice its inputs and result; without it, nothing.
``NUM_MODELS = (low, high)``
    How many models it takes; ``high`` is None for any number.
``VERSION = 2``
    Raised when the same options give another result; part of the ids of merges. Without it, 1.

An option whose value is a mapping goes from task to value and names every task.
"""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Collection, Mapping
from types import ModuleType
from typing import Any

from merging.errors import OptionError
from merging.methods._seam import Granularity
from merging.registry import Registry, unknown
from merging.schedules import Schedule

_REGISTRY = Registry(__name__, __path__, "merge method")
_NOT_INPUTS = ("options", "parameter", "summary", "measure", "watch", "report")
_CHECKPOINTS = ("base", "models")

INPUTS = {
    "base": "model folder that all models were fine-tuned from (theta_0)",
    "models": "model folder of each fine-tuned model, by task (theta_t)",
    "initial": "another merged model of the same base, to start from",
    "base_hessian": "Hessian folder of the base model (H_0)",
    "hessians": "Hessian folder of each fine-tuned model, by task (H_t)",
    "grams": "statistics folder with Gram matrices of the inputs of linear layers, by task (A_t)",
    "base_factors": "statistics folder with K-FAC factors of the base model (A_0, G_0)",
    "factors": "statistics folder with K-FAC factors, by task (A_t, G_t)",
    "blocks": "statistics folder with full curvature blocks of short vectors, by task (B_t)",
    "mask_fishers": "statistics folder with the Fishers of head and neuron masks, by task",
}
"""Every input that a method may ask for, and what it stands for."""

_BY_TASK = ("models", "hessians", "grams", "factors", "blocks", "mask_fishers")
_MODELS = ("base", "models", "initial")

_STATISTIC_KEYS = ("hessian", "scale")


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
    """What a method may be given, e.g. ``("base", "models", "hessians")``: parameters of its ``merge``."""
    return tuple(key for key in inspect.signature(load(name).merge).parameters if key not in _NOT_INPUTS)


def read_options(name: str, options: Mapping[str, Any]) -> Schedule:
    """Check a method's options alone.

    Raises:
        OptionError: unknown method, unknown or wrong option.
    """
    return Schedule(load(name).Options, options, owner=name)


def required_inputs(name: str, options: Any) -> tuple[str, ...]:
    """What a method cannot do without, with these ``Options``."""
    module = load(name)
    parameters = inspect.signature(module.merge).parameters
    extra = module.required(options) if hasattr(module, "required") else ()
    return tuple(
        key for key in inputs(name) if parameters[key].default is inspect.Parameter.empty or key in extra
    )


def is_by_task(key: str) -> bool:
    """Whether an input has a value for each task."""
    return key in _BY_TASK


def is_model(key: str) -> bool:
    """Whether an input is a model, or several; everything else is a statistic."""
    return key in _MODELS


def working_bytes(module: ModuleType, shape: tuple[int, ...], num_models: int) -> int:
    """What ``merge`` of a method holds of one parameter, beyond twice its inputs and result."""
    found: int = module.working_bytes(shape, num_models) if hasattr(module, "working_bytes") else 0
    return found


def version(name: str) -> int:
    """The how-manieth results of a method these are, from 1: another version, with the same options, gives
    another merge."""
    found: int = getattr(load(name), "VERSION", 1)
    return found


def granularity(name: str, options: Any) -> Granularity:
    """What a method gets at a time, with these ``Options``."""
    module = load(name)
    found: Granularity = module.granularity(options) if hasattr(module, "granularity") else "parameter"
    return found


def check_call(
    method: str,
    options: Mapping[str, Any],
    extras: Mapping[str, Any],
    *,
    tasks: Collection[str] | None = None,
    has_base: bool = True,
) -> Schedule:
    """Check everything about a merge that needs no tensor; imports no torch.

    Args:
        method: name of a file in this folder.
        options: fields of its ``Options``, as numbers or in the grammar of :mod:`merging.schedules`.
        extras: its inputs beside base and models. Those that are by task are mappings from task to value.
        tasks: names of the models, where they are known.
        has_base: whether a base model is given.

    Returns:
        The method's options.

    Raises:
        OptionError: unknown method, unknown or wrong option, missing or superfluous input, unknown task, too
            few or too many models.
    """
    module = load(method)
    schedule = read_options(method, options)
    required = required_inputs(method, schedule.common)
    if "base" in required and not has_base:
        raise OptionError(f"{method}: missing base. Give the model that all others were fine-tuned from.")
    if tasks is not None:
        _check_number(method, module, tasks)
    known = [key for key in inputs(method) if key not in _CHECKPOINTS]
    for key in extras:
        if key not in known:
            raise OptionError(f"{method}: {unknown('input', key, known)}.")
    missing = [key for key in required if key not in extras and key not in _CHECKPOINTS]
    if missing:
        raise OptionError(f"{method}: missing input {', '.join(map(repr, missing))}; the method needs it.")
    for key, value in extras.items():
        _check_input(method, key, value, tasks)
    if tasks is not None:
        for variant in (schedule.common, *schedule.variants):
            for field in dataclasses.fields(variant):
                value = getattr(variant, field.name)
                if isinstance(value, Mapping):
                    _check_tasks(f"{method}: {field.name}", value, tasks)
    return schedule


def _check_number(method: str, module: ModuleType, tasks: Collection[str]) -> None:
    """Whether a method takes as many models as there are."""
    if not tasks:
        raise OptionError(f"{method}: models is empty. Give at least one model, by task.")
    low, high = getattr(module, "NUM_MODELS", (1, None))
    if len(tasks) < low or (high is not None and len(tasks) > high):
        allowed = f"{low}" if low == high else f"{low} or more" if high is None else f"{low} to {high}"
        raise OptionError(
            f"{method}: models must be {allowed} beside the base, got {len(tasks)}: "
            f"{', '.join(sorted(tasks))}."
        )


def _check_input(method: str, key: str, value: object, tasks: Collection[str] | None) -> None:
    """One extra input: a folder, or a mapping from task to folder where it is by task."""
    if not is_by_task(key):
        _check_statistic(f"{method}: {key}", value)
        return
    if not isinstance(value, Mapping):
        raise OptionError(f"{method}: {key} must be a mapping from task to folder, got {value!r}.")
    if tasks is not None:
        _check_tasks(f"{method}: {key}", value, tasks)
    for task, item in value.items():
        _check_statistic(f"{method}: {key}[{task!r}]", item)


def _check_statistic(owner: str, value: object) -> None:
    """A statistic is a folder, or ``{"hessian": folder, "scale": number}``."""
    if not isinstance(value, Mapping):
        return
    for key in value:
        if key not in _STATISTIC_KEYS:
            raise OptionError(f"{owner}: {unknown('key', key, _STATISTIC_KEYS)}.")
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
