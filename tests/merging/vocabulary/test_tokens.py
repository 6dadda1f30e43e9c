"""What tokenizer files say."""

import json
from pathlib import Path

import pytest
from merging.errors import CheckpointError
from merging.vocabulary.tokens import read_tokens


def test_no_files(tmp_path: Path) -> None:
    assert read_tokens(tmp_path, label="a") is None


def test_a_list_of_words(tmp_path: Path) -> None:
    (tmp_path / "vocab.txt").write_bytes("a\r\n\u2028\nb\n".encode())
    (tmp_path / "added_tokens.json").write_text('{"<x>": 3}')
    assert read_tokens(tmp_path, label="a") == {"a": 0, "\u2028": 1, "b": 2, "<x>": 3}


def test_tokenizer_json_counts_alone(tmp_path: Path) -> None:
    stored = {
        "model": {"vocab": [["a", 0.0], ["b", -1.0]]},
        "added_tokens": [{"id": 2, "content": "<x>"}, {"id": 0, "content": "a"}],
    }
    (tmp_path / "tokenizer.json").write_text(json.dumps(stored))
    (tmp_path / "vocab.json").write_text('{"z": 0}')
    assert read_tokens(tmp_path, label="a") == {"a": 0, "b": 1, "<x>": 2}


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("tokenizer.json", "{"),
        ("tokenizer.json", "[]"),
        ("tokenizer.json", '{"model": {"vocab": {"a": "b"}}}'),
        ("tokenizer.json", '{"model": {"vocab": {"a": 0}}, "added_tokens": [{"id": 1}]}'),
        ("vocab.json", "3"),
    ],
)
def test_damaged_files(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(CheckpointError, match=rf"{name} of base is damaged"):
        read_tokens(tmp_path, label="base")
