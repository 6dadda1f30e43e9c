"""Metrics against scikit-learn, intervals against theory."""

from pathlib import Path
from typing import Any

import evaluate
import numpy as np
import pytest
import sklearn.metrics
from merging.errors import OptionError, UnknownNameError
from merging.evaluation import metrics
from merging.evaluation.options import EvaluationOptions
from merging.options import parse

REFERENCE = {
    "accuracy": sklearn.metrics.accuracy_score,
    "f1": lambda labels, predictions: sklearn.metrics.f1_score(
        labels, predictions, average="macro", zero_division=0.0
    ),
    "matthews_correlation": sklearn.metrics.matthews_corrcoef,
}


def draw(seed: int, *, size: int = 60, classes: int = 4) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    labels = random.integers(0, classes, size)
    return np.where(random.random(size) < 0.6, labels, random.integers(0, classes, size)), labels


@pytest.mark.parametrize("name", REFERENCE)
@pytest.mark.parametrize("seed", range(3))
def test_values_are_scikit_learn_s(name: str, seed: int) -> None:
    predictions, labels = draw(seed)
    assert metrics.compute(name, predictions, labels) == pytest.approx(REFERENCE[name](labels, predictions))


@pytest.mark.parametrize("name", REFERENCE)
@pytest.mark.parametrize(
    ("predictions", "labels"),
    [([0, 0], [1, 1]), ([2, 2, 2], [0, 1, 2]), ([5, 0], [0, 5]), ([0, 1], [0, 1])],
)
def test_values_at_the_edges(name: str, predictions: list[int], labels: list[int]) -> None:
    assert metrics.compute(name, predictions, labels) == pytest.approx(REFERENCE[name](labels, predictions))


def test_whoever_always_says_the_same_is_not_correlated() -> None:
    assert metrics.compute("matthews_correlation", [0, 0], [0, 0]) == 0.0
    assert metrics.compute("accuracy", [0, 0], [0, 0]) == metrics.compute("f1", [0, 0], [0, 0]) == 1.0


def test_evaluate_loads_the_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evaluate.config, "HF_MODULES_CACHE", str(tmp_path))
    given: dict[str, tuple[list[Any], list[Any], float]] = {
        name: ([0, 1, 1], [0, 1, 0], score([0, 1, 0], [0, 1, 1])) for name, score in REFERENCE.items()
    }
    given["exact_match"] = (["a b", "c"], ["b", "d"], 0.5)
    given["perplexity"] = ([-2.0, -2.0], [1, 3], np.e)
    for name, (predictions, references, expected) in given.items():
        module = evaluate.load(str(Path(metrics.__path__[0]) / name), cache_dir=str(tmp_path))
        value = module.compute(predictions=predictions, references=references)
        assert value == {name: pytest.approx(expected)}


def test_the_interval_of_accuracy_is_that_of_a_proportion() -> None:
    labels = np.zeros(400, dtype=np.int64)
    predictions = np.where(np.arange(400) < 320, 0, 1)
    low, high = metrics.interval("accuracy", predictions, labels, num_samples=4000, seed=0)
    half = 1.96 * np.sqrt(0.8 * 0.2 / 400)
    assert low == pytest.approx(0.8 - half, abs=0.005)
    assert high == pytest.approx(0.8 + half, abs=0.005)


def test_intervals_come_from_the_seed_alone() -> None:
    predictions, labels = draw(0)
    np.random.seed(1)
    intervals = [metrics.interval("f1", predictions, labels, num_samples=50, seed=seed) for seed in (7, 7, 8)]
    assert intervals[0] == intervals[1] != intervals[2]
    assert np.random.random() == np.random.RandomState(1).random()


def test_unknown_names_and_options() -> None:
    with pytest.raises(UnknownNameError, match=r"unknown metric 'acuracy'\. Did you mean 'accuracy'\?"):
        metrics.check("acuracy")
    for options, message in {
        ("metrics", ("acc",)): "unknown metric 'acc'",
        ("metrics", ()): "metrics is empty",
        ("batch_size", 0): "batch_size must be at least 1",
        ("bootstrap_samples", 0): "bootstrap_samples must be at least 1",
        ("seed", -1): "seed must be an int",
    }.items():
        with pytest.raises(OptionError, match=message):
            parse(EvaluationOptions, dict([options]), owner="evaluation")
