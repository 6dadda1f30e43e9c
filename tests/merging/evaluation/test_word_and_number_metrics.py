"""Metrics of tags and of numbers: worked cases, scipy and scikit-learn, and intervals."""

from typing import Any

import numpy as np
import pytest
import scipy.stats
import sklearn.metrics
from merging.errors import OptionError
from merging.evaluation import metrics
from merging.evaluation.metrics.entity_f1.entity_f1 import spans

NUMBERS = {
    "pearson": lambda ours, true: scipy.stats.pearsonr(ours, true).statistic,
    "spearman": lambda ours, true: scipy.stats.spearmanr(ours, true).statistic,
    "mean_squared_error": lambda ours, true: sklearn.metrics.mean_squared_error(true, ours),
}


@pytest.mark.parametrize("name", NUMBERS)
def test_numbers(name: str) -> None:
    random = np.random.default_rng(0)
    true = np.round(random.normal(size=50), 1)  # with ties
    ours = true + random.normal(size=50)
    assert metrics.compute(name, ours.tolist(), true.tolist()) == pytest.approx(NUMBERS[name](ours, true))


def test_the_least_error_is_the_best() -> None:
    assert not metrics.is_share("mean_squared_error") and metrics.is_share("pearson")
    metrics.check_maximised("pearson")
    with pytest.raises(OptionError, match="of mean_squared_error less is better"):
        metrics.check_maximised("mean_squared_error")


@pytest.mark.parametrize("name", ["pearson", "spearman"])
def test_a_constant_is_not_correlated(name: str) -> None:
    assert metrics.compute(name, [0.1, 0.1, 0.1], [1.0, 2.0, 3.0]) == 0.0
    assert metrics.compute(name, [1.0, 2.0, 3.0], [0.7, 0.7, 0.7]) == 0.0


@pytest.mark.parametrize(
    ("tags", "expected"),
    [
        ("O O", set()),
        ("B-X I-X O", {(0, 2, "X")}),
        ("B-X B-X", {(0, 1, "X"), (1, 2, "X")}),
        ("I-X I-X", {(0, 2, "X")}),  # IOB1: an I that continues nothing begins
        ("B-X I-Y I-Y", {(0, 1, "X"), (1, 3, "Y")}),
        ("O I-X B-X", {(1, 2, "X"), (2, 3, "X")}),
        ("S-X B-X E-X I-X", {(0, 1, "X"), (1, 3, "X"), (3, 4, "X")}),
        ("U-X B-X L-X L-X", {(0, 1, "X"), (1, 3, "X"), (3, 4, "X")}),
        ("B-A-B I-A-B", {(0, 2, "A-B")}),
        ("NOUN NOUN VERB", {(0, 1, "NOUN"), (1, 2, "NOUN"), (2, 3, "VERB")}),
        ("", set()),
    ],
)
def test_spans(tags: str, expected: set[Any]) -> None:
    assert spans(tags.split()) == expected


def test_entities_count_only_whole() -> None:
    true = [["B-X", "I-X", "O", "B-Y"], ["O", "O"], ["B-X"]]
    ours = [["B-X", "O", "O", "B-Y"], ["O", "B-X"], ["B-X"]]
    assert metrics.compute("entity_f1", ours, true) == pytest.approx(2 * 2 / (4 + 3))
    assert metrics.compute("tag_accuracy", ours, true) == pytest.approx(5 / 7)
    assert metrics.compute("entity_f1", [["O"]], [["O"]]) == metrics.compute("tag_accuracy", [[]], [[]]) == 0


def test_a_correlation_from_sums() -> None:
    random = np.random.default_rng(0)
    true, ours = random.normal(size=(2, 40)) + 100
    totals = metrics.counts("pearson", ours, true).sum(0)
    assert metrics.of_counts("pearson", totals) == pytest.approx(metrics.compute("pearson", ours, true))
    constant = metrics.counts("pearson", np.full(7, 0.1), true[:7]).sum(0)
    assert metrics.of_counts("pearson", constant) == 0.0


@pytest.mark.parametrize("name", ["entity_f1", "tag_accuracy"])
def test_intervals_of_counts_are_those_of_scores(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    random = np.random.default_rng(0)
    true, ours = (
        metrics.column([list(random.choice(["O", "B-X", "I-X"], size=1 + row % 4)) for row in range(30)])
        for _ in range(2)
    )
    fast = metrics.interval(name, ours, true, num_samples=20, seed=3)
    module = metrics._module(name)
    monkeypatch.delattr(module, "counts")
    monkeypatch.delattr(module, "of_counts")
    monkeypatch.setattr(module, "score", lambda ours, true: _plain(name, ours, true))
    assert metrics.interval(name, ours, true, num_samples=20, seed=3) == pytest.approx(fast)


def _plain(name: str, ours: np.ndarray, true: np.ndarray) -> float:
    if name == "tag_accuracy":
        return float((np.concatenate(ours) == np.concatenate(true)).mean())
    pairs = [(spans(mine), spans(right)) for mine, right in zip(ours, true, strict=True)]
    return 2 * sum(len(a & b) for a, b in pairs) / sum(len(a) + len(b) for a, b in pairs)
