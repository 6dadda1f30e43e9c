"""Metrics of texts and of tokens, against values counted by hand."""

import math

import numpy as np
import pytest
from merging.errors import OptionError
from merging.evaluation import metrics

PAIRS = [
    # prediction, reference, exact match, token F1, ROUGE-L
    ("Paris", "paris.", 1, 1, 1),
    ("the cat sat", "a cat sat", 1, 1, 2 / 3),
    ("sat cat", "cat sat", 0, 1, 1 / 2),
    ("red red dog", "red dog dog", 0, 2 / 3, 2 / 3),
    ("", "", 1, 1, 1),
    ("", "word", 0, 0, 0),
    ("blue", "green", 0, 0, 0),
]


@pytest.mark.parametrize(("name", "place"), [("exact_match", 2), ("token_f1", 3), ("rouge_l", 4)])
def test_texts_are_scored_one_by_one(name: str, place: int) -> None:
    expected = [row[place] for row in PAIRS]
    for row, value in zip(PAIRS, expected, strict=True):
        assert metrics.compute(name, [row[0]], [row[1]]) == pytest.approx(value), row
    predictions, references = [row[0] for row in PAIRS], [row[1] for row in PAIRS]
    assert metrics.compute(name, predictions, references) == pytest.approx(np.mean(expected))


RECORDS = [
    {"prediction": "", "reference": "", "log_likelihood": -2.0, "num_tokens": 4, "num_correct": 3},
    {"prediction": "", "reference": "", "log_likelihood": -7.0, "num_tokens": 5, "num_correct": 0},
]


def test_tokens_of_all_examples_weigh_the_same() -> None:
    assert metrics.compute("perplexity", *metrics.columns("perplexity", RECORDS)) == pytest.approx(math.e)
    accuracy = metrics.compute("token_accuracy", *metrics.columns("token_accuracy", RECORDS))
    assert accuracy == pytest.approx(1 / 3)


def test_metrics_say_what_they_are() -> None:
    assert not metrics.reads_predictions("perplexity")
    assert metrics.reads_predictions("rouge_l") and metrics.reads_predictions("accuracy")
    assert not metrics.is_share("perplexity") and metrics.is_share("token_f1")
    metrics.check_maximised("accuracy")
    with pytest.raises(OptionError, match="of perplexity less is better"):
        metrics.check_maximised("perplexity")


@pytest.mark.parametrize("name", ["token_f1", "perplexity"])
def test_intervals_resample_whole_examples(name: str) -> None:
    predictions, references = metrics.columns(name, RECORDS * 20)
    low, high = metrics.interval(name, predictions, references, num_samples=200, seed=0)
    value = metrics.compute(name, predictions, references)
    assert low <= value <= high
    assert (low < high) == (name == "perplexity")
