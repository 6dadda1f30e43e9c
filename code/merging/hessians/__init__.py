"""Hessian estimators: one file each, chosen by name.

The folder is the registry. A module in it *is* the estimator: it says which statistic it makes, which label
distribution gradients are taken over, as cotangents of the scores, and what it needs. The sums of each
statistic (``_statistics.py`` and what it names), the loop over data and the artefact are shared
(``estimate.py``, ``artifact.py``).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol, cast

from merging.errors import OptionError
from merging.hessians._distributions import Distribution
from merging.hessians.artifact import Statistic
from merging.hessians.options import HessianOptions
from merging.options import parse
from merging.registry import Registry

if TYPE_CHECKING:  # names and options are checked while graphs are built, where torch must not be imported
    from torch import Tensor


class Estimator(Protocol):
    """What a module in this folder offers. Shapes: B examples, R positions, C classes."""

    STATISTIC: Statistic
    """What is summed; see ``artifact.py``."""
    NEEDS_LABELS: bool
    """Whether the labels of the data enter."""
    SAMPLES_LABELS: bool
    """Whether labels are drawn, so that ``num_samples`` and the seed matter."""

    def cotangents(
        self,
        scores: Tensor,
        labels: Tensor | None,
        *,
        examples: Sequence[int],
        num_samples: int,
        seed: int,
        distribution: Distribution,
    ) -> Iterator[Tensor]:
        """Yield v, shaped like ``scores``: a diagonal is the sum over v of (d <v_b, scores_b> / d theta)^2.

        The other statistics are of the same gradients. None is yielded where gradients are not needed.

        Args:
            scores: logits (B, C) or (B, R, C), without gradient.
            labels: (B,) or (B, R); -100 marks positions that predict nothing. None: every position counts.
            examples: place of each example in the data set; with ``seed`` it fixes the draws, so that the
                result depends neither on the batch size nor on the order.
            num_samples: label draws for each example.
            seed: of the draws.
            distribution: of labels given scores; see ``merging.tasks.label_distribution``.
        """


_NO_ESTIMATORS = {"artifact", "estimate", "inspection", "options", "report"}
_REGISTRY = Registry(__name__, __path__, "Hessian estimator", exclude=_NO_ESTIMATORS)


def names() -> tuple[str, ...]:
    """Names of all estimators, sorted."""
    return _REGISTRY.names()


def load(name: str) -> Estimator:
    """Import an estimator.

    Raises:
        UnknownNameError: there is no such file in the folder.
    """
    return cast(Estimator, _REGISTRY.load(name))


def chosen(estimator: str | None, statistics: Sequence[str] | None) -> tuple[str, ...]:
    """Names of the estimators that a call asks for, sorted.

    Args:
        estimator: one of them, or None.
        statistics: several that share one pass over the data, in any order, or None.

    Raises:
        UnknownNameError: no such estimator.
        OptionError: not exactly one of the two is given, or one is named twice.
    """
    if (estimator is None) == (statistics is None):
        raise OptionError(
            "hessian: give exactly one of estimator (one name) and statistics (a list of names that share a "
            "pass over the data)."
        )
    if statistics is None:
        given = [str(estimator)]
    elif isinstance(statistics, str) or not statistics or len(set(statistics)) < len(statistics):
        raise OptionError(f"statistics must be a list of different estimators, got {statistics!r}.")
    else:
        given = list(statistics)
    for name in given:
        load(name)
    return tuple(sorted(given))


def check_call(estimator: str | Sequence[str], options: Mapping[str, Any]) -> HessianOptions:
    """Return the parsed options of an estimate, without importing torch.

    Args:
        estimator: name of one, or of several that share a pass.
        options: fields of ``HessianOptions``.

    Raises:
        UnknownNameError: no such estimator.
        OptionError: an option that is unknown, of the wrong type, out of range, or without effect.
    """
    names = (estimator,) if isinstance(estimator, str) else tuple(estimator)
    methods, owner = [load(name) for name in names], ", ".join(names)
    parsed = parse(HessianOptions, options, owner=owner)
    if parsed.num_samples != 1 and not any(method.SAMPLES_LABELS for method in methods):
        raise OptionError(
            f"{owner}: num_samples is {parsed.num_samples}, but this estimator draws no labels. Leave it out."
        )
    for name in ("kfac_scale", "kfac_bias", "kfac_sharing"):
        value, default = getattr(parsed, name), getattr(HessianOptions, name)
        if value != default and not any(method.STATISTIC == "kfac" for method in methods):
            raise OptionError(
                f"{owner}: {name} is {value!r}, but this estimator makes no K-FAC factors. Leave it out."
            )
    if parsed.token_reduction != "sum" and all(method.STATISTIC == "gram" for method in methods):
        raise OptionError(
            f"{owner}: token_reduction is {parsed.token_reduction!r}, but this estimator takes no gradients. "
            "Leave it out."
        )
    return parsed
