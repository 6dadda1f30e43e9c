"""Split expressions, the stratified shuffle, and what a config may call a data set."""

import hashlib
import json
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from merging.data import splits
from merging.errors import DataError, OptionError


@pytest.mark.parametrize(
    ("expression", "rows"),
    [
        ("train", range(50)),
        ("train[:20%]", range(10)),
        ("train[90%:]", range(45, 50)),
        ("train[-10%:]", range(45, 50)),
        ("train[:0.5%]", range(0)),
        ("train[33.3%:66.6%]", range(16, 33)),
        ("train[10:20]", range(10, 20)),
        ("train[:500]", range(50)),
        ("train[-5:]", range(45, 50)),
        ("train[:]", range(50)),
    ],
)
def test_slices_of_fifty_rows(expression: str, rows: range) -> None:
    (part,) = splits.parse(expression)
    assert part.name == "train"
    assert list(part.rows(50)) == list(rows)


@pytest.mark.parametrize("size", [1, 7, 100, 67_349])
@pytest.mark.parametrize("percent", ["1", "29", "57", "58", "99.9"])
def test_two_sides_of_a_percentage_are_disjoint_and_complete(size: int, percent: str) -> None:
    left, right = (splits.parse(f"a[:{percent}%]")[0], splits.parse(f"a[{percent}%:]")[0])
    assert [*left.rows(size), *right.rows(size)] == list(range(size))


@pytest.mark.parametrize("expression", ["", "train[", "train[1]", "train[:1.5]", "train[::2]", "a++b", "a b"])
def test_what_is_no_expression_says_how_to_write_one(expression: str) -> None:
    with pytest.raises(OptionError, match=r"cannot read split .*'train\[:20%\]'"):
        splits.parse(expression)


def test_every_prefix_holds_each_class_in_its_share() -> None:
    labels = [0] * 600 + [1] * 300 + [2] * 100  # sorted by class, as many sources are
    order = splits.permutation(labels, len(labels), seed=3)
    assert sorted(order) == list(range(1000))
    for size in range(1, 1001, 37):
        counts = Counter(labels[row] for row in order[:size])
        for label, share in {0: 0.6, 1: 0.3, 2: 0.1}.items():
            assert abs(counts[label] - share * size) <= 1


def test_balanced_classes_stay_balanced() -> None:
    labels = [row % 2 for row in range(100)]
    order = splits.permutation(labels, 100, seed=0)
    assert all(sum(labels[row] for row in order[:size]) == size / 2 for size in range(0, 101, 2))
    assert [labels[row] for row in order] != labels  # no fixed pattern


def test_the_permutation_is_pinned() -> None:
    """Another order would silently be another experiment; this digest may never change."""
    labels = [row % 3 for row in range(100)]
    order = splits.permutation(labels, 100, seed=0)
    digest = hashlib.sha256(json.dumps(order.tolist()).encode()).hexdigest()
    assert digest == "af44cf0c9ab7fcb1d208aaf5deebacc33c27a08950040e79f24a1695d528cb16"


def test_the_permutation_depends_on_the_seed() -> None:
    labels = [row % 2 for row in range(40)]
    orders = [splits.permutation(labels, 40, seed).tolist() for seed in (0, 0, 1)]
    assert orders[0] == orders[1] != orders[2]


def test_the_permutation_leaves_the_global_generator_alone() -> None:
    np.random.seed(5)
    expected = np.random.RandomState(5).random_sample()
    splits.permutation([0, 1, 0, 1], 4, seed=0)
    assert np.random.random_sample() == expected


def test_loading_is_stratified_and_disjoint(reviews: Path) -> None:
    def texts(split: str) -> list[str]:
        return list(splits.load({"data": reviews, "split": split, "shuffle_seed": 1})["text"])

    head, tail = texts("train[:50%]"), texts("train[50%:]")
    assert len(head) == len(tail) == 12
    assert not set(head) & set(tail)
    labels = splits.load({"data": reviews, "split": "train[:50%]", "shuffle_seed": 1})["label"][:]
    assert abs(sum(labels) - 8) <= 1  # two thirds of the source are of class 1


def test_without_a_seed_the_order_is_the_source_s(reviews: Path) -> None:
    dataset = {"data": reviews, "split": "train[2:5]", "shuffle_seed": None}
    assert splits.load(dataset)["text"][:] == ["good film  2", "bad film very 3", "good film  4"]
    assert splits.ids(dataset) == ["train/2", "train/3", "train/4"]


def test_sums_and_lists_concatenate(reviews: Path, digits: Path) -> None:
    both = {"data": reviews, "split": "train+validation[:50%]", "shuffle_seed": None}
    assert len(splits.load(both)) == 28
    twice = [both, {"data": reviews, "split": "test[:1]", "shuffle_seed": None}]
    assert len(splits.load(twice)) == 29
    assert splits.ids(twice)[0] == "local/reviews/train/0"
    assert len(set(splits.ids(twice))) == 29


def test_ids_name_the_rows_that_load_returns(reviews: Path) -> None:
    dataset = {"data": reviews, "split": "train", "shuffle_seed": 7}
    for text, id in zip(splits.load(dataset)["text"], splits.ids(dataset), strict=True):
        assert text.endswith(f" {id.removeprefix('train/')}")


def test_an_empty_slice_names_itself_and_the_size(reviews: Path) -> None:
    with pytest.raises(DataError, match=r"split 'test\[12:\]' of .* is empty: 'test' has 12 rows"):
        splits.load({"data": reviews, "split": "test[12:]"})


def test_an_unknown_split_says_what_there_is(reviews: Path) -> None:
    with pytest.raises(DataError, match=r"unknown split 'tests'\. Did you mean 'test'\? Known: test, tr"):
        splits.load({"data": reviews, "split": "tests"})


def test_data_sets_of_one_list_must_be_alike(reviews: Path, digits: Path) -> None:
    with pytest.raises(DataError, match="must have equal columns and label names"):
        splits.load([{"data": reviews, "split": "test"}, {"data": digits, "split": "test"}])


def test_a_missing_folder_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no data set at .*nowhere .*`merging download`"):
        splits.load({"data": tmp_path / "nowhere", "split": "test"})


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ([], "an empty list"),
        ("imdb", r"expected \{'data': <folder>"),
        ({"data": "d"}, "'split' is missing"),
        ({"split": "train"}, "'data' is missing"),
        ({"data": "d", "split": "train", "seed": 1}, "unknown field 'seed'"),
        (
            {"data": "d", "split": "train", "shuffle_seed": True},
            "shuffle_seed must be None or in 0..4294967295",
        ),
        ({"data": "d", "split": "train", "shuffle_seed": -1}, "shuffle_seed must be None or in"),
        ({"data": "d", "split": "train[5]"}, "cannot read split"),
        ({"data": "d", "split": "train[:0]"}, r"split 'train\[:0\]' is empty: .* Widen the slice"),
        ({"data": "d", "split": "train[:0%]"}, "is empty"),
        ({"data": "d", "split": "test+train[20:10]"}, "is empty"),
        ({"data": "d", "split": "train[50%:50%]"}, "is empty"),
        ({"data": "d", "split": "train[-10:-20]"}, "is empty"),
    ],
)
def test_what_is_no_data_set_is_refused(value: Any, message: str) -> None:
    with pytest.raises(OptionError, match=message):
        splits.check_dataset(value)


def test_checking_imports_nothing_heavy() -> None:
    code = (
        "import sys; from merging.data import sources, splits; from merging import tasks;"
        "sources.load('imdb'); tasks.load('image_classification'); tasks.load('sequence_classification');"
        "splits.check_dataset({'data': 'd', 'split': 'train[:20%]'});"
        "assert not {'torch', 'transformers', 'datasets', 'numpy'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
