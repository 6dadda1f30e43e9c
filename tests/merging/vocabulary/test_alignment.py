"""Merges of model folders whose vocabularies differ."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from merging.errors import CheckpointError, OptionError
from merging.files.checkpoints import open_checkpoint
from merging.merge.streaming import merge_checkpoints, open_merge
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import Tensor

WriteModel = Callable[..., Path]
WriteHessian = Callable[..., Path]
Write = Callable[..., Path]

BASE = ["[UNK]", "good", "bad"]
LEFT = ["[UNK]", "bad", "good", "so"]
RIGHT = ["[UNK]", "good", "so", "film", "very"]


@pytest.fixture
def write(write_model: WriteModel) -> Write:
    """``write(name, tokens, rows, num_rows)``: a model whose embedding has row r filled with ``rows[r]``."""

    def save(name: str, tokens: list[str], rows: Mapping[str, float], *, num_padding: int = 0) -> Path:
        embedding = torch.tensor([rows[token] for token in tokens] + [100.0] * num_padding)
        tensors = {
            "embed_tokens.weight": embedding[:, None].expand(-1, 2).contiguous(),
            "lm_head.bias": embedding.clone(),
            "layers.0.weight": torch.full((2, 2), rows["[UNK]"]),
        }
        config = {
            "vocab_size": len(embedding),
            "eos_token_id": tokens.index("good"),
            "bad_token_id": [tokens.index("good"), 99],
            "pad_token_id": None,
        }
        folder = write_model(name, tensors, config=config)
        tokenizer = Tokenizer(models.WordLevel({word: number for number, word in enumerate(tokens)}, "[UNK]"))
        tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
        tokenizer.save(str(folder / "tokenizer.json"))
        return folder

    return save


@pytest.fixture
def folders(write: Write) -> dict[str, Path]:
    return {
        "base": write("base", BASE, {"[UNK]": 0.0, "good": 1.0, "bad": 2.0}, num_padding=1),
        "left": write("left", LEFT, {"[UNK]": 0.0, "good": 3.0, "bad": 4.0, "so": 5.0}),
        "right": write("right", RIGHT, {"[UNK]": 0.0, "good": 6.0, "so": 7.0, "film": 8.0, "very": 9.0}),
    }


def merged(
    folders: Mapping[str, Path],
    tmp_path: Path,
    vocabulary: str,
    *,
    method: str = "task_arithmetic",
    options: Any = None,
    extras: Any = None,
    with_base: bool = True,
) -> tuple[Tensor, dict[str, Any], Tokenizer]:
    """Merge left and right; returns the embedding, the config, and the tokenizer."""
    out = tmp_path / "out"
    merge_checkpoints(
        method=method,
        options=options or {},
        base=folders["base"] if with_base else None,
        models={task: folders[task] for task in ("left", "right")},
        extras=extras or {},
        out=out,
        policy={"vocabulary": vocabulary},
    )
    model = open_checkpoint(out, label="out")
    assert torch.equal(model.read("embed_tokens.weight")[:, 0], model.read("lm_head.bias"))
    config = json.loads((out / "config.json").read_text())
    return (
        model.read("lm_head.bias"),
        config | {"record": json.loads((out / "merge.json").read_text())["vocabulary"]},
        Tokenizer.from_file(str(out / "tokenizer.json")),
    )


def test_base(folders: Mapping[str, Path], tmp_path: Path) -> None:
    rows, config, tokenizer = merged(folders, tmp_path, "base")
    good, bad = 1 + (3 - 1) + (6 - 1), 2 + (4 - 2) + 0  # right does not know "bad": unchanged
    assert rows.tolist() == [0, good, bad, 100]  # and the padding row stays
    assert config["vocab_size"] == 4
    assert tokenizer.get_vocab() == {"[UNK]": 0, "good": 1, "bad": 2}


def test_union(folders: Mapping[str, Path], tmp_path: Path) -> None:
    rows, config, tokenizer = merged(folders, tmp_path, "union")
    assert rows.tolist() == [0, 8, 4, 6 + (5 - 6) + (7 - 6), 8, 9]
    assert config["vocab_size"] == 6
    assert tokenizer.get_vocab() == {"[UNK]": 0, "good": 1, "bad": 2, "so": 3, "film": 4, "very": 5}
    assert config["record"]["round_trip"]["texts"] > 5
    assert config["record"]["num_filled"] == {"base": 3, "models['left']": 2, "models['right']": 1}


def test_intersection(folders: Mapping[str, Path], tmp_path: Path) -> None:
    rows, config, tokenizer = merged(folders, tmp_path, "intersect")
    assert rows.tolist() == [0, 8]
    assert tokenizer.get_vocab() == {"[UNK]": 0, "good": 1}
    assert (config["vocab_size"], config["eos_token_id"], config["bad_token_id"]) == (2, 1, [1])
    assert config["pad_token_id"] is None


def test_without_a_base(folders: Mapping[str, Path], tmp_path: Path) -> None:
    """The average; a token that one model has takes its row everywhere."""
    rows, config, tokenizer = merged(folders, tmp_path, "union", method="average", with_base=False)
    assert rows.tolist() == [0, 4, 4.5, 6, 8, 9]
    assert config["eos_token_id"] == tokenizer.token_to_id("good") == 2


def test_curvature_goes_along(
    folders: Mapping[str, Path], write_hessian_of: WriteHessian, tmp_path: Path
) -> None:
    """Fisher averaging: a token that only one model knows keeps that model's row."""

    def hessian(task: str, values: list[float]) -> Path:
        column = torch.tensor(values)
        return write_hessian_of(
            folders[task],
            {
                "embed_tokens.weight": column[:, None].expand(-1, 2).contiguous(),
                "lm_head.bias": column,
                "layers.0.weight": torch.ones(2, 2),
            },
        )

    hessians = {"left": hessian("left", [1, 2, 3, 4.0]), "right": hessian("right", [1, 1, 1, 5, 6.0])}
    rows, _, _ = merged(
        folders,
        tmp_path,
        "union",
        method="fisher",
        extras={"hessians": hessians},
        with_base=False,
    )
    expected = [0, 4, (3 * 3 + 1 * 6) / 4, (4 * 5 + 1 * 7) / 5, 8, 9]
    torch.testing.assert_close(rows, torch.tensor(expected), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("vocabulary", "keeps"), [("base", True), ("union", False), ("intersect", False)])
def test_what_is_kept(folders: Mapping[str, Path], vocabulary: str, keeps: bool) -> None:
    opened = open_merge(
        method="task_arithmetic",
        options={},
        base=folders["base"],
        models={"left": folders["left"]},
        extras={},
        policy={"vocabulary": vocabulary},
    )
    assert opened.alignment is not None
    assert opened.alignment.keeps_first is keeps


def test_same_vocabularies_are_left_alone(write: Write, tmp_path: Path) -> None:
    rows = {"[UNK]": 0.0, "good": 1.0, "bad": 2.0}
    merge_checkpoints(
        method="average",
        options={},
        base=None,
        models={name: write(name, BASE, rows) for name in ("a", "b")},
        extras={},
        out=tmp_path / "out",
        policy={"vocabulary": "union"},
    )
    assert "vocabulary" not in json.loads((tmp_path / "out" / "merge.json").read_text())


def test_refusals(folders: Mapping[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(OptionError, match="rows='base' matches rows by number, vocabulary='union' by token"):
        merge_checkpoints(
            method="average",
            options={},
            base=None,
            models=folders,
            extras={},
            out=tmp_path / "out",
            policy={"vocabulary": "union", "rows": "base"},
        )
    with pytest.raises(CheckpointError, match=r"token 'bad' is number 2 in base and 1 in models\['left'\]"):
        merged(folders, tmp_path, "error")
    with monkeypatch.context() as patch:
        patch.setattr("merging.merge.streaming.write_checkpoint", None)  # refused before anything is merged
        stored = (folders["left"] / "tokenizer.json").read_text()
        (folders["left"] / "tokenizer.json").write_text(stored.replace("WordLevel", "WordPiece"))
        with pytest.raises(CheckpointError, match="tokenizers differ in kind"):
            merged(folders, tmp_path, "union")
    (folders["left"] / "tokenizer.json").unlink()
    with pytest.raises(CheckpointError, match=r"models\['left'\]: .* has no tokenizer\.json, vocab\.txt or"):
        merged(folders, tmp_path, "union")
    config = json.loads((folders["right"] / "config.json").read_text())
    del config["vocab_size"]
    (folders["right"] / "config.json").write_text(json.dumps(config))
    (folders["left"] / "vocab.txt").write_text("\n".join(LEFT))
    with pytest.raises(CheckpointError, match=r"models\['right'\]: config\.json of .* has no vocab_size"):
        merged(folders, tmp_path, "union")
    assert not (tmp_path / "out").exists()
