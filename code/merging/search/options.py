"""What a search for coefficients can be told; checked while the graph is built."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from merging.errors import OptionError
from merging.methods import check_call
from merging.options import check_seed, parse
from merging.registry import unknown

_RANGE_KEYS = ("low", "high", "step", "log", "per_task")


@dataclass(frozen=True, kw_only=True)
class SearchOptions:
    """What a search can be told."""

    strategy: Literal["grid", "random", "bayesian", "greedy_soup"] = "bayesian"
    """grid: every combination; random: drawn uniformly; bayesian: tree-structured Parzen estimators;
    greedy_soup: which models to average (Wortsman et al., ICML 2022, arXiv:2203.05482), for the method
    "soup"."""
    num_trials: int = 30
    """Merges that are evaluated at most; a grid needs as many as it has points, a greedy soup 2 T - 1 for T
    models."""
    metric: str | None = None
    """What is maximised, its mean over the tasks; None: the main metric of the task type."""
    seed: int = 0
    """Of random draws."""

    def __post_init__(self) -> None:
        if self.num_trials < 1:
            raise OptionError(f"search: num_trials must be 1 or more, got {self.num_trials}.")
        check_seed(self.seed, owner="search")


@dataclass(frozen=True)
class Range:
    """Values of one coefficient."""

    option: str
    """The method's option."""
    task: str | None
    """The task whose value it is; None: one number for all."""
    choices: tuple[float, ...] | None
    """All values, where they are listed or have a step."""
    low: float
    high: float
    log: bool

    @property
    def name(self) -> str:
        """E.g. ``scaling_factor`` or ``scaling_factor[sst2]``."""
        return self.option if self.task is None else f"{self.option}[{self.task}]"


def check_search(
    *,
    method: str,
    fixed: Mapping[str, Any],
    space: Mapping[str, Any],
    options: Mapping[str, Any],
    extras: Mapping[str, Any],
    tasks: Collection[str],
    has_base: bool,
) -> tuple[SearchOptions, tuple[Range, ...]]:
    """Check everything about a search that needs no tensor; imports no torch.

    Args:
        method: name of a merge method.
        fixed: its options that stay the same.
        space: the options that are searched for: a list of numbers, or ``{"low": 0.0, "high": 1.0}`` with
            ``step`` or ``log``; ``"per_task": True`` gives each task a coefficient of its own.
        options: fields of :class:`SearchOptions`.
        extras: other inputs of the method.
        tasks: names of the models.
        has_base: whether a base is given.

    Raises:
        OptionError: something unknown, or a corner of the space that the method refuses.
    """
    parsed = parse(SearchOptions, options, owner="search")
    for name, given in (("space", space), ("fixed", fixed)):
        if not isinstance(given, Mapping):
            raise OptionError(f"search: {name} must be a mapping from option to value, got {given!r}.")
    if parsed.strategy == "greedy_soup":
        if method != "soup" or space:
            raise OptionError(
                "search: greedy_soup chooses models for the method 'soup' and takes no space, got the method "
                f"{method!r} and {dict(space)!r}."
            )
        check_call(method, fixed, extras, tasks=tasks, has_base=has_base)
        return parsed, ()
    if not space:
        raise OptionError(
            'search: space is empty. Give e.g. {"scaling_factor": {"low": 0.0, "high": 1.0, "step": 0.1}}.'
        )
    ranges = tuple(its for key, value in space.items() for its in _ranges(key, value, sorted(tasks)))
    for corner in (0, -1):
        point = {its: its.choices[corner] if its.choices else (its.low, its.high)[corner] for its in ranges}
        check_call(method, options_at(fixed, point), extras, tasks=tasks, has_base=has_base)
    if parsed.strategy == "grid":
        if any(its.choices is None for its in ranges):
            endless = next(its.name for its in ranges if its.choices is None)
            raise OptionError(f"search: a grid needs a step for {endless!r}, or a list of numbers.")
        size = math.prod(len(its.choices or ()) for its in ranges)
        if size > parsed.num_trials:
            raise OptionError(
                f"search: the grid has {size} points, num_trials is {parsed.num_trials}. Raise it, or widen "
                "the steps."
            )
    return parsed, ranges


def options_at(fixed: Mapping[str, Any], point: Mapping[Range, float]) -> dict[str, Any]:
    """The method's options at one point of the space."""
    options = dict(fixed)
    for its, value in point.items():
        if its.task is None:
            options[its.option] = value
        else:
            options[its.option] = {**options.get(its.option, {}), its.task: value}
    return options


_MOST_CHOICES = 10_000
"""Of one coefficient; each is a merge and its evaluation."""


def _ranges(option: str, value: Any, tasks: Sequence[str]) -> Iterator[Range]:
    owner = f"search: space[{option!r}]"
    if isinstance(value, list | tuple):
        if not value or not all(type(number) is float for number in value):
            raise OptionError(f"{owner} must be a list of floats or a range, got {value!r}.")
        yield Range(option, None, tuple(value), min(value), max(value), log=False)
        return
    if not isinstance(value, Mapping):
        raise OptionError(f"{owner} must be a list of floats or {{'low': ..., 'high': ...}}, got {value!r}.")
    for key in value:
        if key not in _RANGE_KEYS:
            raise OptionError(f"{owner}: {unknown('key', key, _RANGE_KEYS)}.")
    for key in ("low", "high"):
        if type(value.get(key)) is not float or not math.isfinite(value[key]):
            raise OptionError(f"{owner}: {key} must be a finite float, got {value.get(key)!r}.")
    low, high, step = value["low"], value["high"], value.get("step")
    log = value.get("log", False)
    if not low < high:
        raise OptionError(f"{owner}: low must be below high, got {low} and {high}.")
    if log and not low > 0:
        raise OptionError(f"{owner}: low must be > 0 on a logarithmic scale, got {low}.")
    if step is not None and (type(step) is not float or not 0 < step <= high - low or log):
        raise OptionError(
            f"{owner}: step must be a float > 0 and at most high - low, without log, got {step!r}."
        )
    choices = None
    if step is not None:
        count = math.floor((high - low) / step * (1 + 1e-12)) + 1
        if count > _MOST_CHOICES:
            raise OptionError(
                f"{owner}: step {step} makes {count:,} values, more than {_MOST_CHOICES:,}. Widen it, or "
                "leave it out: random and bayesian searches need none."
            )
        choices = tuple(round(low + number * step, 12) for number in range(count))
    for task in tasks if value.get("per_task", False) else (None,):
        yield Range(option, task, choices, low, high, log)
