"""Means over tasks and examples, and paired-bootstrap intervals. Pure functions of arrays.

Test examples are resampled within each task; every line of a table sees the same resample, so that
differences between lines are paired. Seeds are averaged before resampling: the intervals say what other test
examples would have changed, not what other seeds would have.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

MAX_BLOCK = 4_000_000
"""Counts held in memory at once, 32 MB."""


@dataclass(frozen=True)
class Estimate:
    """A number with its 95 % interval and, with several seeds, its spread."""

    value: float
    low: float
    high: float
    deviation: float | None
    """Standard deviation over seeds (n - 1); None with one seed."""


def resampled_means(scores: Array, *, num_samples: int, generator: np.random.Generator) -> Array:
    """Bootstrap the mean over examples, for many lines at once.

    Examples on which all lines have the same scores are interchangeable: only the number of each such
    pattern matters, and numbers of patterns are multinomial. This is the ordinary bootstrap, without drawing
    ``num_samples * num_examples`` indices.

    Args:
        scores: one row a line, one column an example.
        num_samples: number of resamples.
        generator: source of randomness.

    Returns:
        Array (lines, num_samples) of means.
    """
    num_examples = scores.shape[1]
    patterns, counts = np.unique(scores, axis=1, return_counts=True)
    block = max(1, MAX_BLOCK // len(counts))
    means = np.empty((len(scores), num_samples))
    for start in range(0, num_samples, block):
        stop = min(start + block, num_samples)
        drawn = generator.multinomial(num_examples, counts / num_examples, size=stop - start)
        means[:, start:stop] = patterns @ drawn.T / num_examples
    return means


def estimate(value: float, samples: Array, per_seed: Sequence[float]) -> Estimate:
    """Put a number, its resamples and its values for each seed together."""
    low, high = np.quantile(samples, [0.025, 0.975])
    deviation = float(np.std(per_seed, ddof=1)) if len(per_seed) > 1 else None
    return Estimate(float(value), float(low), float(high), deviation)
