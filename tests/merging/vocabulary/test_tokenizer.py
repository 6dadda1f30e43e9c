"""Tokenizers of a joint vocabulary, of each kind, made with the tokenizers package."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from merging.errors import CheckpointError
from merging.vocabulary.tokenizer import check_round_trip, write_tokenizer
from merging.vocabulary.tokens import read_tokens
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors

Write = Callable[[str, Tokenizer], Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def save(name: str, tokenizer: Tokenizer) -> Path:
        (tmp_path / name).mkdir()
        tokenizer.save(str(tmp_path / name / "tokenizer.json"))
        return tmp_path / name

    return save


def words(*vocabulary: str, special: str = "[CLS]") -> Tokenizer:
    listed = ["[UNK]", special, *vocabulary]
    tokenizer = Tokenizer(models.WordLevel({word: number for number, word in enumerate(listed)}, "[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.add_special_tokens([special])
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{special} $A", special_tokens=[(special, 1)]
    )
    return tokenizer


def bytes_and_merges(*merged: tuple[str, str]) -> Tokenizer:
    """Byte-level BPE: all bytes, and the results of merges."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    listed = [*alphabet, *(left + right for left, right in merged)]
    tokenizer = Tokenizer(models.BPE({token: number for number, token in enumerate(listed)}, list(merged)))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def pieces(*scored: tuple[str, float]) -> Tokenizer:
    listed = [("<unk>", 0.0), *((letter, -9.0) for letter in "abcdefgh▁"), *scored]
    tokenizer = Tokenizer(models.Unigram(listed, unk_id=0))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    return tokenizer


def joined(reference: Path, others: dict[str, Path], tokens: dict[str, int], out: Path) -> Tokenizer:
    out.mkdir()
    write_tokenizer(out, reference=reference, others=others, tokens=tokens)
    check_round_trip(out, reference=reference, tokens=tokens, num_rows=len(tokens))
    return Tokenizer.from_file(str(out / "tokenizer.json"))


def union(first: Path, second: Path) -> dict[str, int]:
    tokens = dict(read_tokens(first, label="a") or {})
    for token in read_tokens(second, label="b") or {}:
        tokens.setdefault(token, len(tokens))
    return tokens


def test_union_of_words(write: Write, tmp_path: Path) -> None:
    first, second = write("a", words("good", "bad")), write("b", words("bad", "so", special="[SEP]"))
    tokens = union(first, second)
    made = joined(first, {"b": second}, tokens, tmp_path / "out")
    assert made.encode("so good bad new").tokens == ["[CLS]", "so", "good", "bad", "[UNK]"]
    assert made.encode("so [SEP]").ids == [1, tokens["so"], tokens["[SEP]"]]
    added = json.loads((tmp_path / "out" / "tokenizer.json").read_text())["added_tokens"]
    assert {its["content"]: its["id"] for its in added} == {"[CLS]": 1, "[SEP]": tokens["[SEP]"]}


def test_union_of_merges(write: Write, tmp_path: Path) -> None:
    """A token of the other model occurs in texts again, which an added token would not."""
    first = write("a", bytes_and_merges(("t", "h"), ("th", "e")))
    second = write("b", bytes_and_merges(("Ġ", "q"), ("t", "h"), ("Ġq", "u")))
    tokens = union(first, second)
    made = joined(first, {"b": second}, tokens, tmp_path / "out")
    assert made.encode("the quick").tokens == ["the", "Ġqu", "i", "c", "k"]
    assert made.decode(made.encode("the quick 東京").ids) == "the quick 東京"


def test_union_of_pieces(write: Write, tmp_path: Path) -> None:
    left = pieces(("▁ab", -1.0))
    left.add_tokens([AddedToken("<end>", special=True)])
    first, second = write("a", left), write("b", pieces(("▁cd", -1.0), ("ef", -1.0)))
    tokens = union(first, second)
    made = joined(first, {"b": second}, tokens, tmp_path / "out")
    assert made.encode("ab cdef<end>").tokens == ["▁ab", "▁cd", "ef", "<end>"]


def test_intersection_of_words(write: Write, tmp_path: Path) -> None:
    first = write("a", words("good", "bad", "film"))
    (first / "tokenizer_config.json").write_text(
        json.dumps({"cls_token": "[CLS]", "added_tokens_decoder": {"1": {"content": "[CLS]"}}})
    )
    tokens = {"[CLS]": 0, "[UNK]": 1, "film": 2}
    made = joined(first, {}, tokens, tmp_path / "out")
    assert made.encode("good film").ids == [0, 1, 2]
    config = json.loads((tmp_path / "out" / "tokenizer_config.json").read_text())
    assert config["added_tokens_decoder"]["0"]["content"] == "[CLS]"


def test_intersection_of_merges(write: Write, tmp_path: Path) -> None:
    first = write("a", bytes_and_merges(("t", "h"), ("th", "e"), ("a", "b")))
    kept = [token for token in read_tokens(first, label="a") or {} if token != "th"]
    made = joined(first, {}, {token: number for number, token in enumerate(kept)}, tmp_path / "out")
    assert made.encode("the ab").tokens == ["t", "h", "e", "Ġ", "ab"]


def test_intersection_of_pieces(write: Write, tmp_path: Path) -> None:
    first = write("a", pieces(("▁ab", -1.0), ("cd", -1.0)))
    kept = [token for token in read_tokens(first, label="a") or {} if token not in ("▁ab", "a")]
    tokens = {token: number for number, token in enumerate(reversed(kept))}
    made = joined(first, {}, tokens, tmp_path / "out")
    assert made.encode("cda").ids == [tokens["▁"], tokens["cd"], tokens["<unk>"]]


def test_tokens_that_cannot_be_missing(write: Write, tmp_path: Path) -> None:
    first = write("a", words("good"))
    for tokens, missing in (({"[UNK]": 0, "good": 1}, "[CLS]"), ({"[CLS]": 0, "good": 1}, "[UNK]")):
        with pytest.raises(CheckpointError, match=f"needs the token '.{missing[1:-1]}.'"):
            write_tokenizer(tmp_path, reference=first, others={}, tokens=tokens)


def test_same_tokens_are_copied(write: Write, tmp_path: Path) -> None:
    first = write("a", words("good"))
    (first / "special_tokens_map.json").write_text("{}")
    joined(first, {}, dict(read_tokens(first, label="a") or {}), tmp_path / "out")
    for name in ("tokenizer.json", "special_tokens_map.json"):
        assert (tmp_path / "out" / name).read_bytes() == (first / name).read_bytes()


def test_other_kinds(write: Write, tmp_path: Path) -> None:
    first, second = write("a", words("good")), write("b", bytes_and_merges())
    with pytest.raises(CheckpointError, match="differ in kind: WordLevel in the reference, BPE in b"):
        write_tokenizer(tmp_path, reference=first, others={"b": second}, tokens=union(first, second))


def test_no_fast_tokenizer(write: Write, tmp_path: Path) -> None:
    first = write("a", words("good"))
    with pytest.raises(CheckpointError, match=r"b: .* has no tokenizer\.json"):
        write_tokenizer(tmp_path, reference=first, others={"b": tmp_path}, tokens={"x": 0})


def test_too_few_rows(write: Write, tmp_path: Path) -> None:
    first = write("a", words("good"))
    tokens: Any = read_tokens(first, label="a")
    with pytest.raises(
        CheckpointError, match="knows 3 tokens up to number 2, the embedding has 3 tokens in 2"
    ):
        check_round_trip(first, reference=first, tokens=tokens, num_rows=2)
    with pytest.raises(CheckpointError, match="the embedding has 4 tokens"):
        check_round_trip(first, reference=first, tokens=tokens | {"more": 3}, num_rows=9)


def test_a_round_trip_that_fails(write: Write) -> None:
    first, second = write("a", bytes_and_merges()), write("b", bytes_and_merges())
    stored = json.loads((second / "tokenizer.json").read_text())
    stored["decoder"] = None
    (second / "tokenizer.json").write_text(json.dumps(stored))
    tokens: Any = read_tokens(first, label="a")
    with pytest.raises(CheckpointError, match="the joint tokenizer turns"):
        check_round_trip(second, reference=first, tokens=tokens, num_rows=len(tokens))
