"""The numbers of a table, not yet text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from merging.evaluation import metrics
from merging.tables.results import ACCURACY, Results
from merging.tables.rows import Kind, LineKey, Row, TableOptions, lines
from merging.tables.statistics import Array, Estimate, estimate, resampled_means


@dataclass(frozen=True)
class Line:
    """One line of the table; scores are fractions, differences are differences of fractions."""

    label: str
    kind: Kind
    scaling_factor: float | None
    parameter: float | None
    tasks: Mapping[str, Estimate]
    macro: Estimate
    """Mean over tasks."""
    per_example: Estimate
    """Mean over all examples of all tasks ("true mean")."""
    difference: Estimate | None
    """Macro mean minus that of the reference, paired; None for the reference itself and without one."""
    normalised: Estimate | None
    """Mean over tasks of the score divided by that of the individual models."""


@dataclass(frozen=True)
class Table:
    """All lines, and what a reader must know about them."""

    options: TableOptions
    lines: Sequence[Line]
    num_examples: Mapping[str, int]
    seeds: Sequence[int]

    @property
    def tasks(self) -> list[str]:
        """Tasks, sorted: the order of the columns."""
        return sorted(self.num_examples)


@dataclass(frozen=True)
class _Scores:
    """Task scores of one line: as measured, for each seed, and resampled."""

    value: Array  # (tasks,)
    per_seed: Array  # (tasks, seeds)
    samples: Array  # (tasks, samples)

    def combine(self, weights: Array) -> tuple[float, Array, list[float]]:
        """Weighted sum over tasks of all three."""
        return float(weights @ self.value), weights @ self.samples, list(map(float, weights @ self.per_seed))


def summarize(rows: Sequence[Row], results: Results, options: TableOptions) -> Table:
    """Compute every number of the table."""
    scores = _score(results, options)
    kinds = {row.key: row.kind for row in rows}
    individual = next((scores[key] for key in lines(rows) if kinds[key] == "individual"), None)
    equal = np.full(len(results.tasks), 1 / len(results.tasks))
    counts = np.array([results.num_examples[task] for task in results.tasks], dtype=np.float64)
    table_lines = []
    for key in lines(rows):
        own = scores[key]
        reference = _reference(key, scores, options)
        table_lines.append(
            Line(
                label=key.label,
                kind=kinds[key],
                scaling_factor=key.scaling_factor,
                parameter=key.parameter,
                tasks={
                    task: estimate(*own.combine(np.eye(len(counts))[index]))
                    for index, task in enumerate(results.tasks)
                },
                macro=estimate(*own.combine(equal)),
                per_example=estimate(*own.combine(counts / counts.sum())),
                difference=None if reference is None else _difference(own, reference, equal),
                normalised=None if individual is None else _normalise(own, individual, equal),
            )
        )
    return Table(options, table_lines, results.num_examples, results.seeds)


def _score(results: Results, options: TableOptions) -> dict[LineKey, _Scores]:
    """Measure and resample all lines together, so that they share the resamples."""
    keys = list(results.counts)
    samples = []
    for number, task in enumerate(results.tasks):
        generator = np.random.default_rng([options.seed, number])
        counts = np.stack([results.counts[key][task] for key in keys])  # (lines, seeds, examples, K)
        if options.metric == ACCURACY:
            samples.append(
                resampled_means(
                    counts[..., 0].mean(axis=1), num_samples=options.bootstrap_samples, generator=generator
                )
            )
        else:
            rows = counts.swapaxes(2, 3)  # a row of examples for each number that is summed
            means = resampled_means(
                rows.reshape(-1, rows.shape[-1]), num_samples=options.bootstrap_samples, generator=generator
            )
            totals = means.reshape(*rows.shape[:3], -1) * rows.shape[-1]
            samples.append(_of_counts(options.metric, totals, axis=2).mean(axis=1))
    scores = {}
    for index, key in enumerate(keys):
        of_tasks = (results.counts[key][task] for task in results.tasks)
        if options.metric == ACCURACY:
            per_seed = np.stack([counts[..., 0].mean(axis=1) for counts in of_tasks])
        else:
            per_seed = np.stack(
                [_of_counts(options.metric, counts.sum(axis=1), axis=1) for counts in of_tasks]
            )
        scores[key] = _Scores(
            per_seed.mean(axis=1), per_seed, np.stack([of_task[index] for of_task in samples])
        )
    return scores


def _of_counts(metric: str, totals: Array, *, axis: int) -> Array:
    """The metric of sums whose K numbers lie along an axis."""
    return np.apply_along_axis(lambda its: metrics.of_counts(metric, its), axis, totals)


def _reference(key: LineKey, scores: Mapping[LineKey, _Scores], options: TableOptions) -> _Scores | None:
    """What a line is compared with: the reference at its own scaling factor and parameter, as far as it has
    them."""
    label = options.reference
    if label is None or key.label == label:
        return None
    factor = options.reference_scaling_factor if key.scaling_factor is None else key.scaling_factor
    candidates = [
        LineKey(label, factor, key.parameter),
        LineKey(label, factor),
        LineKey(label, None, key.parameter),
        LineKey(label),
    ]
    return next((scores[candidate] for candidate in candidates if candidate in scores), None)


def _difference(own: _Scores, reference: _Scores, weights: Array) -> Estimate:
    difference = _Scores(
        own.value - reference.value, own.per_seed - reference.per_seed, own.samples - reference.samples
    )
    return estimate(*difference.combine(weights))


def _normalise(own: _Scores, individual: _Scores, weights: Array) -> Estimate | None:
    """Divide by the individual models; None where one of them gets nothing right."""
    if not (individual.samples.all() and individual.per_seed.all()):
        return None
    ratio = _Scores(
        own.value / individual.value, own.per_seed / individual.per_seed, own.samples / individual.samples
    )
    return estimate(*ratio.combine(weights))
