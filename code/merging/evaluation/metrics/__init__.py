"""Metrics as local modules of the ``evaluate`` library: one folder each, nothing is fetched from the Hub.

``metrics/<name>/<name>.py`` holds an ``evaluate.Metric`` around a plain function ``score``;
``evaluate.load`` takes the folder, and the functions here take the name.
"""

from __future__ import annotations

import importlib
import tempfile
from collections.abc import Mapping, Sequence
from types import ModuleType
from typing import TYPE_CHECKING, Any

from merging.errors import OptionError, UnknownNameError
from merging.registry import Registry, unknown

if TYPE_CHECKING:
    import numpy as np

_REGISTRY = Registry(__name__, __path__, "metric")
_LEVEL = 0.95


def names() -> tuple[str, ...]:
    """Names of all metrics, sorted."""
    return _REGISTRY.names()


def check(name: str) -> None:
    """Raise UnknownNameError unless there is such a metric; imports nothing heavy."""
    if name not in names():
        raise UnknownNameError(unknown("metric", name, names()))


def column(values: Sequence[Any] | np.ndarray) -> np.ndarray:
    """Return N values as an array (N,); lists (a tag for each word) are kept as objects."""
    import numpy as np

    if isinstance(values, np.ndarray):
        return values
    if not any(isinstance(value, list | tuple) for value in values):
        return np.array(values)
    lists = np.empty(len(values), dtype=object)
    lists[:] = values
    return lists


def compute(
    name: str, predictions: Sequence[Any] | np.ndarray, references: Sequence[Any] | np.ndarray
) -> float:
    """Return a metric through the ``evaluate`` library.

    Args:
        name: a folder here.
        predictions: N class indices, numbers, texts or lists, as the metric takes them.
        references: the N true ones, in the same order.
    """
    module = _module(name)
    with tempfile.TemporaryDirectory(prefix="merging-metric-") as cache:  # evaluate insists on a folder
        metric = module.Metric(cache_dir=cache, keep_in_memory=True)
        return float(metric.compute(predictions=predictions, references=references)[name])


def interval(
    name: str, predictions: np.ndarray, references: np.ndarray, *, num_samples: int, seed: int
) -> tuple[float, float]:
    """Return the percentile-bootstrap 95 % interval of a metric over examples.

    A metric of sums over examples offers ``counts`` and ``of_counts``, so that nothing is counted twice.

    Args:
        name: a folder here.
        predictions: (N,).
        references: (N,).
        num_samples: resamplings with replacement.
        seed: two calls with equal N and seed resample the same examples.
    """
    import numpy as np

    module = _module(name)
    counts = module.counts(predictions, references) if hasattr(module, "counts") else None
    random = np.random.RandomState(seed)
    values = np.empty(num_samples)
    for sample in range(num_samples):
        chosen = random.randint(len(references), size=len(references))
        if counts is None:
            values[sample] = module.score(predictions[chosen], references[chosen])
        else:
            values[sample] = module.of_counts(counts[chosen].sum(0))
    low, high = np.quantile(values, [(1 - _LEVEL) / 2, (1 + _LEVEL) / 2])
    return float(low), float(high)


def columns(name: str, records: Sequence[Mapping[str, Any]]) -> tuple[np.ndarray, np.ndarray]:
    """Return what a metric compares, (N,) and (N,), from one record for each example.

    A metric that takes other fields than ``prediction`` and ``reference`` names them as ``FIELDS``.
    """
    first, second = getattr(_module(name), "FIELDS", ("prediction", "reference"))
    return column([record[first] for record in records]), column([record[second] for record in records])


def counts(name: str, predictions: np.ndarray, references: np.ndarray) -> np.ndarray:
    """Return the numbers of each example, (N, K), whose sums make a metric.

    Raises:
        OptionError: it is not made of sums.
    """
    module = _module(name)
    if not hasattr(module, "counts"):
        raise OptionError(
            f"{name} is not made of sums over examples, so that it cannot be resampled. Take the main metric "
            "of the task type."
        )
    found: np.ndarray = module.counts(predictions, references)
    return found


def of_counts(name: str, totals: np.ndarray) -> float:
    """Return a metric from the sums, (K,), over examples of :func:`counts`."""
    return float(_module(name).of_counts(totals))


def reads_predictions(name: str) -> bool:
    """Whether a metric takes what a model predicts, rather than how likely it finds the truth."""
    return not hasattr(_module(name), "FIELDS")


def is_share(name: str) -> bool:
    """Whether a metric is at most 1, so that it is shown in percent."""
    return bool(getattr(_module(name), "IS_SHARE", True))


def check_maximised(name: str) -> None:
    """Raise OptionError for a metric of which less is better, which nothing may be chosen by."""
    if not getattr(_module(name), "GREATER_IS_BETTER", True):
        raise OptionError(
            f"of {name} less is better, and models are chosen by the greatest value. Choose by another one."
        )


def _module(name: str) -> ModuleType:
    check(name)
    return importlib.import_module(f"{__name__}.{name}.{name}")
