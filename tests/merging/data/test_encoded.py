"""Encoded rows are made once, keyed by content, and never needed on disk."""

import multiprocessing
import shutil
from pathlib import Path
from typing import Any

import pytest
from merging import tasks
from merging.data import encoded
from merging.errors import DataError, OptionError
from merging.files.cache import cache_folder
from merging.tasks import sequence_classification

TASK = "sequence_classification"


@pytest.fixture
def tokenizer(tiny_language_model: Path) -> Any:
    return tasks.load(TASK).load_processor(model=str(tiny_language_model))


def rows(reviews: Path, tokenizer: Any, *, split: str = "test", max_tokens: int = 8) -> list[dict[str, Any]]:
    loaded = encoded.load(
        {"data": reviews, "split": split}, task_type=TASK, processor=tokenizer, max_tokens=max_tokens
    )
    return list(loaded)


def entries() -> list[Path]:
    folder = cache_folder()
    assert folder is not None
    return sorted((folder / "encoded").iterdir())


def test_the_second_time_nothing_is_encoded(
    reviews: Path, tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = rows(reviews, tokenizer)
    monkeypatch.delattr(sequence_classification, "encode")
    assert rows(reviews, tokenizer) == first
    assert set(first[0]) == {"input_ids", "attention_mask", "length", "labels"}


def test_copies_of_data_and_model_share_the_entry(
    reviews: Path, tokenizer: Any, tiny_language_model: Path, tmp_path: Path
) -> None:
    shutil.copytree(reviews, tmp_path / "reviews")
    shutil.copytree(tiny_language_model, tmp_path / "model")
    rows(reviews, tokenizer)
    copy = tasks.load(TASK).load_processor(model=str(tmp_path / "model"))
    rows(tmp_path / "reviews", copy)
    assert len(entries()) == 1


def test_other_options_splits_and_processors_have_entries_of_their_own(reviews: Path, tokenizer: Any) -> None:
    rows(reviews, tokenizer)
    rows(reviews, tokenizer, max_tokens=4)
    rows(reviews, tokenizer, split="train")
    tokenizer.add_tokens(["very"])
    tokenizer.add_tokens(["splendid"])
    rows(reviews, tokenizer)
    assert len(entries()) == 4


def test_without_a_place_for_the_cache_rows_are_in_memory(
    reviews: Path, tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = rows(reviews, tokenizer)
    monkeypatch.setenv("MERGING_CACHE", "/proc/nothing/can/be/made/here")
    assert cache_folder() is None
    assert rows(reviews, tokenizer) == expected
    monkeypatch.delenv("MERGING_CACHE")
    monkeypatch.setenv("HOME", "")
    assert cache_folder() is None


def test_a_cache_that_fills_up_is_no_error(
    reviews: Path, tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(self: Path, target: Path) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "rename", full)
    assert len(rows(reviews, tokenizer)) == 12
    assert entries() == []


def test_the_cache_lies_in_the_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MERGING_CACHE")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_folder() == tmp_path / ".cache" / "merging"


def test_processes_that_encode_at_once_agree(reviews: Path, tokenizer: Any) -> None:
    context = multiprocessing.get_context("fork")
    with context.Pool(2) as pool:
        results = pool.starmap(rows, [(reviews, tokenizer)] * 4)
    assert all(result == results[0] for result in results)
    assert len(entries()) == 1


def test_texts_need_a_limit(reviews: Path, tokenizer: Any) -> None:
    with pytest.raises(OptionError, match=r"max_tokens must be in 1\.\.16 for this tokenizer, got None"):
        encoded.load({"data": reviews, "split": "test"}, task_type=TASK, processor=tokenizer, max_tokens=None)
    with pytest.raises(OptionError, match="got 17"):
        rows(reviews, tokenizer, max_tokens=17)
    tokenizer.model_max_length = int(1e30)  # what transformers gives for a tokenizer that says nothing of it
    with pytest.raises(OptionError, match="max_tokens must be 1 or more, got 0"):
        rows(reviews, tokenizer, max_tokens=0)


def test_images_are_no_texts(digits: Path, tokenizer: Any) -> None:
    with pytest.raises(DataError, match="the data set has no column 'text'; it has image, label"):
        rows(digits, tokenizer)
