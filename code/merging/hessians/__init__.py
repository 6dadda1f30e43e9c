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


_REGISTRY = Registry(__name__, __path__, "Hessian estimator", exclude={"artifact", "estimate", "options"})


def names() -> tuple[str, ...]:
    """Names of all estimators, sorted."""
    return _REGISTRY.names()


def load(name: str) -> Estimator:
    """Import an estimator.

    Raises:
        UnknownNameError: there is no such file in the folder.
    """
    return cast(Estimator, _REGISTRY.load(name))


def check_call(estimator: str, options: Mapping[str, Any]) -> HessianOptions:
    """Return the parsed options of an estimate, without importing torch.

    Raises:
        UnknownNameError: no such estimator.
        OptionError: an option that is unknown, of the wrong type, out of range, or without effect.
    """
    method = load(estimator)
    parsed = parse(HessianOptions, options, owner=estimator)
    if parsed.num_samples != 1 and not method.SAMPLES_LABELS:
        raise OptionError(
            f"{estimator}: num_samples is {parsed.num_samples}, but this estimator draws no labels. "
            "Leave it out."
        )
    if parsed.kfac_scale != "consistent" and method.STATISTIC != "kfac":
        raise OptionError(
            f"{estimator}: kfac_scale is {parsed.kfac_scale!r}, but this estimator makes no K-FAC factors. "
            "Leave it out."
        )
    return parsed
