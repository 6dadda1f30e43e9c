"""Columns beside texts, images and classes: words with tags, choices, targets, numbers."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import datasets
import pytest
from merging import tasks
from merging.data import columns, sources, splits
from merging.data.download import download_data, read_source
from merging.data.sources import Source
from merging.errors import DataError

Write = Callable[..., Path]


@pytest.fixture
def download(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Write:
    """``download(rows, source=None)`` makes a data folder from JSON lines, by a row of its own or without."""

    def make(rows: Sequence[dict[str, Any]], source: Source | None = None, *, name: str = "mine") -> Path:
        folder = tmp_path / "files" / name
        folder.mkdir(parents=True)
        (folder / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        if source is not None:
            monkeypatch.setitem(sources._SOURCES, f"local/{name}", source)
        out = tmp_path / "data" / name
        download_data(source=f"local/{name}", folder=tmp_path / "files", out=out)
        return out

    return make


def load(folder: Path, **changes: Any) -> datasets.Dataset:
    return splits.load({"data": folder, "split": "train", "shuffle_seed": None, **changes})


def test_words_and_their_tags(download: Write) -> None:
    folder = download([{"words": ["a", "b"], "label": ["O", "B-X"]}, {"words": [], "label": []}])
    rows = load(folder)
    assert rows["words"][:] == [["a", "b"], []] and rows["label"][:] == [[1, 0], []]
    assert rows.features["label"].feature.names == ["B-X", "O"]
    assert read_source(folder)["label_names"] == ["B-X", "O"]


def test_columns_of_a_row_of_sources(download: Write) -> None:
    row = Source(
        task_type="token_classification",
        local="mine",
        inputs={"words": "tokens"},
        label="tags",
        label_names=("O", "B-X"),
    )
    rows = load(download([{"tokens": ["a"], "tags": [1], "id": 3}], row))
    assert rows.column_names == ["words", "label"]
    assert rows.features["label"].feature.names == ["O", "B-X"] and rows["label"][:] == [[1]]


def test_choices_and_numbers(download: Write) -> None:
    choices = load(download([{"text": "q", "choices": ["a", "b"], "label": 1}], name="choices"))
    assert choices[0] == {"text": "q", "choices": ["a", "b"], "label": 1}
    numbers = download([{"text": "q", "label": 0.5}, {"text": "r", "label": 2.0}], name="numbers")
    assert load(numbers)["label"][:] == [0.5, 2.0] and read_source(numbers)["label_names"] is None


def test_targets_need_no_label(download: Write) -> None:
    assert load(download([{"text": "a", "target": "b", "other": 1}]))[0] == {"text": "a", "target": "b"}


def test_numbers_and_lists_make_no_strata(download: Write) -> None:
    numbers = download([{"text": f"{row}", "label": row / 2} for row in range(20)], name="numbers")
    words = download([{"words": [f"{row}"], "label": ["O"]} for row in range(20)], name="words")
    orders = [load(folder, shuffle_seed=3) for folder in (numbers, words)]
    first, second = (
        [int(text) for text in orders[0]["text"]],
        [int(words[0]) for words in orders[1]["words"]],
    )
    assert first == second == list(splits.permutation(None, 20, 3))


def test_names_of_tags_are_part_of_the_content(download: Write) -> None:
    rows = [{"words": ["a"], "tags": [0]}]
    hashes = {
        read_source(
            download(
                rows,
                Source(
                    task_type=None, local=name, inputs={"words": "words"}, label="tags", label_names=names
                ),
                name=name,
            )
        )["content_hash"]
        for name, names in {"one": ("O", "B-X"), "two": ("B-X", "O")}.items()
    }
    assert len(hashes) == 2


AS_PUBLISHED: dict[str, dict[str, list[Any]]] = {
    "conll2003": {"id": ["0"], "tokens": [["EU", "rejects"]], "pos_tags": [[1, 2]], "ner_tags": [[3, 0]]},
    "stsb": {"sentence1": ["a"], "sentence2": ["b"], "label": [3.8], "idx": [0]},
    "race": {
        "example_id": ["x"],
        "article": ["It rained."],
        "question": ["What did it do?"],
        "options": [["rain", "shine", "snow", "hail"]],
        "answer": ["A"],
    },
}
OURS: dict[str, dict[str, Any]] = {
    "conll2003": {"words": ["EU", "rejects"], "label": [3, 0]},
    "stsb": {"text": "a", "text_pair": "b", "label": 3.8},
    "race": {
        "text": "It rained. What did it do?",
        "choices": ["rain", "shine", "snow", "hail"],
        "label": 0,
    },
}


@pytest.mark.parametrize("name", OURS)
def test_rows_of_hub_data_sets_read_their_columns(name: str, tmp_path: Path) -> None:
    """Columns as their cards describe them; the data themselves are not fetched."""
    row = sources.load(name)
    raw = {"train": datasets.Dataset.from_dict(AS_PUBLISHED[name])}
    found, _ = columns.normalize(raw, row, name, cache=tmp_path)
    assert found["train"][0] == OURS[name]
    assert row.task_type is not None
    tasks.load(row.task_type).check(found["train"])


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{"words": "a b", "label": [0]}], "column 'words' holds .*, not lists of strings"),
        ([{"words": ["a"], "label": ["O"]}, {"words": [None], "label": ["O"]}], "words of row 1 is missing"),
        (
            [{"text": "a", "label": 0.5}, {"text": "b", "label": None}],
            "label None of row 1 is no finite number",
        ),
        ([{"sentence": "a", "label": 0}], "no column 'text' or 'image'; it has sentence, label"),
    ],
)
def test_what_cannot_be_read_is_refused(rows: list[dict[str, Any]], message: str, download: Write) -> None:
    with pytest.raises(DataError, match=message):
        download(rows)


def test_a_missing_column_of_a_row_of_sources_is_named(download: Write) -> None:
    row = Source(task_type=None, local="mine", inputs={"words": "tokens"})
    with pytest.raises(DataError, match="no column 'text' or 'image' or 'tokens'"):
        download([{"words": ["a"]}], row)
