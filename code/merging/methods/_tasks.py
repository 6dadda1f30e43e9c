"""Values by task, in the one order in which sums are taken."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping

from merging.errors import OptionError


def per_task(name: str, value: float | Mapping[str, float], tasks: Collection[str]) -> dict[str, float]:
    """Give each task its value, sorted by task: the order of a sum matters in the last bits.

    Raises:
        OptionError: a mapping that does not name exactly the tasks.
    """
    if not isinstance(value, Mapping):
        return dict.fromkeys(sorted(tasks), value)
    if set(value) != set(tasks):
        raise OptionError(f"{name} names the tasks {sorted(value)}, but the models are {sorted(tasks)}.")
    return {task: value[task] for task in sorted(tasks)}


def values(value: float | Mapping[str, float]) -> list[float]:
    """All numbers of an option that is one number or one for each task."""
    return list(value.values()) if isinstance(value, Mapping) else [value]


def check_finite(name: str, value: float | Mapping[str, float], *, low: float = -math.inf) -> None:
    """Refuse NaN, infinities and numbers below ``low``."""
    for number in values(value):
        if not (math.isfinite(number) and number >= low):
            bound = f" and >= {low:g}" if low > -math.inf else ""
            raise OptionError(f"{name} must be finite{bound}, got {number}.")
