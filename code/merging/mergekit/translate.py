"""mergekit's merge methods in ours: which method, which options, with mergekit's defaults and conventions."""

from __future__ import annotations

import glob
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from merging.errors import OptionError
from merging.mergekit.config import Config
from merging.mergekit.settings import Constant, Setting, first_value
from merging.registry import unknown
from merging.sources.layers import join_name, split_name

REQUIRED = object()
"""Stands for a default that does not exist."""

_STORAGE = ("int8_mask",)  # how mergekit stores masks: no meaning for the result


@dataclass(frozen=True)
class Values:
    """mergekit's parameters at one tensor."""

    common: Mapping[str, Any]
    by_task: Mapping[str, Mapping[str, Any]]
    """Parameter to task to value."""


@dataclass(frozen=True)
class Method:
    """One of mergekit's methods."""

    method: str
    """Ours."""
    options: Callable[[Values], dict[str, Any]]
    """Our options at one tensor."""
    common: Mapping[str, Any] = field(default_factory=dict)
    """Parameters of the merge, with mergekit's defaults."""
    by_model: Mapping[str, Any] = field(default_factory=dict)
    """Parameters of each model, with mergekit's defaults."""
    base: Literal["needed", "optional", "unused"] = "needed"
    """Whether models are taken relative to ``base_model``, which is then none of the merged models."""
    num_models: tuple[int, int | None] = (1, None)
    """How many models it takes beside a base."""
    fixed: Callable[[bool], dict[str, Any]] | None = None
    """Our options that mergekit has no parameter for; is told whether there is a base."""

    def fixed_options(self, *, has_base: bool) -> dict[str, Any]:
        """Options that are the same at every tensor."""
        return self.fixed(has_base) if self.fixed else {}


def _linear(values: Values) -> dict[str, Any]:
    return {"weights": values.by_task["weight"], "normalize": values.common["normalize"]}


def _combined_weights(values: Values) -> dict[str, float]:
    """lambda w_t, divided by sum w where that is asked for and not (nearly) 0."""
    weights = values.by_task["weight"]
    total = sum(weights.values())
    divides = values.common["normalize"] and abs(total) >= 1e-8
    factor = values.common["lambda"] / (total if divides else 1.0)
    return {task: factor * weight for task, weight in weights.items()}


def _task_arithmetic(values: Values) -> dict[str, Any]:
    return {"scaling_factor": _combined_weights(values)}


def _nuslerp(values: Values) -> dict[str, Any]:
    by_vector = "first" if values.common["nuslerp_row_wise"] else "last"  # its rows are stored columns
    return {
        "weights": values.by_task["weight"],
        "axis": "all" if values.common["nuslerp_flatten"] else by_vector,
    }


def _multislerp(values: Values) -> dict[str, Any]:
    return {
        "weights": values.by_task["weight"],
        "normalize": values.common["normalize_weights"],
        "eps": values.common["eps"],
    }


def _passthrough(values: Values) -> dict[str, Any]:
    (scale,) = values.by_task["scale"].values()
    return {"scale": scale}


def _ties(values: Values) -> dict[str, Any]:
    return {
        "density": values.by_task["density"],
        "weights": values.by_task["weight"],
        "scaling_factor": values.common["lambda"],
        "merge_function": "mean" if values.common["normalize"] else "sum",
        "rescale": "l1" if values.common["rescale"] else "none",
    }


def _sparse(*keys: str) -> Callable[[Values], dict[str, Any]]:
    """Options of methods that thin out task vectors before they combine them; ``keys`` are by model."""

    def options(values: Values) -> dict[str, Any]:
        return {
            **{key: values.by_task[key] for key in ("density", *keys)},
            "weights": values.by_task["weight"],
            "scaling_factor": values.common["lambda"],
            "normalize": values.common["normalize"],
            "rescale": "l1" if values.common["rescale"] else "none",
        }

    return options


def _della(values: Values) -> dict[str, Any]:
    """With density 1 mergekit keeps everything, whatever epsilon."""
    options = _sparse("epsilon")(values)
    density = options["density"]
    return options | {
        "epsilon": {task: 0.0 if density[task] >= 1 else its for task, its in options["epsilon"].items()}
    }


def _same(*keys: str) -> Callable[[Values], dict[str, Any]]:
    """Options that are called as mergekit's parameters."""
    return lambda values: {key: values.common[key] for key in keys}


def _per_tensor(has_base: bool) -> dict[str, Any]:
    return {"flavour": "per_tensor"}


def _clipless(has_base: bool) -> dict[str, Any]:
    return {"clip_ratio": False}


def _parity(has_base: bool) -> dict[str, Any]:
    return {"parity": True}


def _relative(has_base: bool) -> dict[str, Any]:
    return {"relative_to_base": has_base}


def _sparse_method(
    name: str,
    options: Callable[[Values], dict[str, Any]],
    *,
    normalize: bool,
    rescale: bool,
    **by_model: float,
) -> Method:
    return Method(
        name,
        options,
        {"normalize": normalize, "rescale": rescale, "lambda": 1.0},
        {"weight": REQUIRED, "density": 1.0, **by_model},
    )


METHODS: dict[str, Method] = {
    "linear": Method("average", _linear, {"normalize": True}, {"weight": REQUIRED}, base="unused"),
    "task_arithmetic": Method(
        "task_arithmetic",
        _task_arithmetic,
        {"normalize": False, "lambda": 1.0},
        {"weight": REQUIRED},
    ),
    "slerp": Method("slerp", _same("t"), {"t": REQUIRED}, num_models=(1, 1)),
    "nuslerp": Method(
        "nuslerp",
        _nuslerp,
        {"nuslerp_flatten": True, "nuslerp_row_wise": False},
        {"weight": REQUIRED},
        base="optional",
        num_models=(2, 2),
        fixed=_relative,
    ),
    "multislerp": Method(
        "multislerp",
        _multislerp,
        {"normalize_weights": True, "eps": 1e-8},
        {"weight": REQUIRED},
        base="optional",
        num_models=(2, None),
        fixed=_relative,
    ),
    "karcher": Method(
        "karcher",
        _same("max_iter", "tol"),
        {"max_iter": 10, "tol": 1e-5},
        base="unused",
        num_models=(2, None),
    ),
    "ties": Method(
        "ties",
        _ties,
        {"normalize": True, "rescale": False, "lambda": 1.0},
        {"weight": REQUIRED, "density": 1.0},
        fixed=_per_tensor,
    ),
    "dare_linear": _sparse_method("dare_linear", _sparse(), normalize=False, rescale=True),
    "dare_ties": _sparse_method("dare_ties", _sparse(), normalize=False, rescale=True),
    "breadcrumbs": _sparse_method(
        "breadcrumbs", _sparse("gamma"), normalize=False, rescale=False, gamma=0.01
    ),
    "breadcrumbs_ties": _sparse_method(
        "breadcrumbs_ties", _sparse("gamma"), normalize=False, rescale=False, gamma=0.01
    ),
    "della": _sparse_method("della", _della, normalize=True, rescale=True, epsilon=0.15),
    "della_linear": _sparse_method("della_linear", _della, normalize=False, rescale=True, epsilon=0.15),
    "model_stock": Method(
        "model_stock",
        _same("filter_wise"),
        {"filter_wise": False},
        num_models=(2, None),
        fixed=_clipless,
    ),
    "sce": Method("sce", _same("select_topk"), {"select_topk": 1.0}, fixed=_parity),
    "arcee_fusion": Method("arcee_fusion", _same(), num_models=(1, 1)),
    "ram": Method("ram", _same("epsilon"), {"epsilon": 1e-5}),
    "ramplus_tl": Method(
        "ramplus",
        _same("epsilon", "r", "alpha"),
        {"epsilon": 1e-5, "r": 0.1, "alpha": 0.2},
    ),
    "nearswap": Method("nearswap", _same("t"), {"t": REQUIRED}, num_models=(1, 1)),
    "passthrough": Method("passthrough", _passthrough, {}, {"scale": 1.0}, base="unused", num_models=(1, 1)),
}
"""Every method of mergekit that we have, by mergekit's name."""


def method(name: str) -> Method:
    """Look up one of mergekit's methods.

    Raises:
        OptionError: there is none of that name, or we do not have it.
    """
    if name not in METHODS:
        raise OptionError(f"merge_method: {unknown('method', name, METHODS)}")
    return METHODS[name]


def uses_base(config: Config) -> bool:
    """Whether models are taken relative to a base."""
    need = method(config.merge_method).base
    has_base = config.base_model is not None or any(part.base_model is not None for part in config.slices)
    return need == "needed" or (need == "optional" and has_base)


def check_parameters(config: Config) -> None:
    """Refuse parameters that the method does not take, on every level.

    Raises:
        OptionError: an unknown parameter, or one of the whole merge that is given for one model.
    """
    its = method(config.merge_method)
    known = (*its.common, *its.by_model, *_STORAGE)
    levels: list[tuple[str, Mapping[str, Setting], Collection[str]]] = [
        ("parameters", config.parameters, known)
    ]
    for part in config.slices:
        levels.append(("parameters of a slice", part.parameters, known))
        levels.extend((f"parameters of {it.model}", it.parameters, its.by_model) for it in part.sources)
    for where, given, allowed in levels:
        for key in given:
            if key not in allowed:
                hint = f" {key} belongs to the parameters of the whole merge." if key in known else ""
                text = unknown("parameter", key, allowed) if allowed else f"unknown parameter {key!r}."
                raise OptionError(f"{config.merge_method}: {where}: {text}{hint}")


@dataclass(frozen=True)
class Place:
    """Where a tensor of the output lies."""

    slice: int
    """Number of its slice."""
    position: float
    """Of its layer in the slice, from 0.0 to 1.0; 0.0 outside of the layers."""


def values_at(config: Config, name: str, place: Place, tasks: Mapping[str, Sequence[int]]) -> Values:
    """Evaluate the parameters of a merge at one tensor.

    Args:
        config: the file.
        name: of the tensor in the output.
        place: its slice and position.
        tasks: number of the source in each slice, by task.

    Raises:
        OptionError: a parameter without default has no value here, or one of the wrong type.
    """
    its = method(config.merge_method)
    part = config.slices[place.slice]
    outer = (part.parameters, config.parameters)

    def value(key: str, default: Any, levels: Sequence[Mapping[str, Setting]], owner: str) -> Any:
        found = first_value(levels, key, name, place.position)
        if found is None:
            if default is REQUIRED:
                raise OptionError(
                    f"{config.merge_method}: {key!r} has no value for {owner} at {name!r}. Give it in the "
                    f"parameters of the model or of the whole merge."
                )
            return default
        return _typed(found, default, f"{config.merge_method}: {key}")

    return Values(
        {key: value(key, default, outer, "the merge") for key, default in its.common.items()},
        {
            key: {
                task: value(
                    key,
                    default,
                    (part.sources[numbers[place.slice]].parameters, *outer),
                    str(part.sources[numbers[place.slice]].model),
                )
                for task, numbers in sorted(tasks.items())
            }
            for key, default in its.by_model.items()
        },
    )


def _typed(value: Constant, default: Any, owner: str) -> Any:
    """A value of the type of its default; numbers stand for truth values, as in mergekit."""
    if isinstance(default, bool):
        return bool(value)
    if isinstance(value, bool):
        raise OptionError(f"{owner} must be a number, got {value!r}.")
    if isinstance(default, int):
        if int(value) != value:
            raise OptionError(f"{owner} must be a whole number, got {value!r}.")
        return int(value)
    return float(value)


def options_of(
    config: Config, places: Mapping[str, Place], tasks: Mapping[str, Sequence[int]]
) -> dict[str, Any]:
    """Our options, with a list of names where they are not the same everywhere.

    Args:
        config: the file.
        places: of every tensor that may be merged.
        tasks: number of the source in each slice, by task.

    Raises:
        OptionError: see ``values_at``; or an option that is no number differs between tensors.
    """
    its = method(config.merge_method)
    found = {name: its.options(values_at(config, name, place, tasks)) for name, place in places.items()}
    keys = next(iter(found.values()), {})
    return {
        key: _by_name(key, {name: options[key] for name, options in found.items()}, config.merge_method)
        for key in keys
    }


def _by_name(key: str, values: Mapping[str, Any], owner: str) -> Any:
    """One value, or entries of our grammar (``merging.schedules``): whole layers where these are uniform."""
    default = _most_common(values.values())
    if all(value == default for value in values.values()):
        return default
    if not isinstance(default, float | Mapping):
        raise OptionError(
            f"{owner}: what decides {key} must be the same for all tensors, "
            f"got {sorted(set(values.values()))}. Only numbers may differ by layer or name."
        )
    layers: dict[str, dict[str, Any]] = {}
    for name, value in values.items():
        layer = split_name(name)
        layers.setdefault(join_name(layer[0], layer[1], "") if layer else "", {})[name] = value
    entries = []
    for layer_name, its in layers.items():
        usual = _most_common(its.values()) if layer_name else default
        entries += [
            {"filter": glob.escape(name), "value": value}
            for name, value in its.items()
            if value != usual or name == layer_name
        ]
        if usual != default:
            entries.append({"filter": glob.escape(layer_name) + ".*", "value": usual})
    return [*entries, {"value": default}]


def _most_common(values: Iterable[Any]) -> Any:
    """The value that occurs most; of several the first."""
    listed = list(values)
    counts = Counter(map(repr, listed))
    return max(listed, key=lambda value: counts[repr(value)])
