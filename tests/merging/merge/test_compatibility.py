"""Model folders that do not belong together, seen from their small files."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from merging.errors import CheckpointError
from merging.merge.streaming import merge_checkpoints
from torch import Tensor

WriteModel = Callable[..., Path]
Random = Callable[..., dict[str, Tensor]]
Merge = Callable[..., None]


@pytest.fixture
def merge(write_model: WriteModel, random_tensors: Random, tmp_path: Path) -> Merge:
    """``merge(config_of_base, config_of_model, files={...})`` averages two models of 3 labels."""

    def run(base: Any, model: Any, *, files: Any = None, **arguments: Any) -> None:
        folders = {
            name: write_model(name, random_tensors(seed), config=config)
            for seed, (name, config) in enumerate([("base", base), ("a", model)])
        }
        for name, contents in (files or {}).items():
            for folder, content in zip(folders.values(), contents, strict=True):
                if content is not None:
                    (folder / name).write_text(content if isinstance(content, str) else json.dumps(content))
        call: dict[str, Any] = {"options": {}, "extras": {}, "out": tmp_path / "out"} | arguments
        merge_checkpoints(method="average", base=folders["base"], models={"a": folders["a"]}, **call)

    return run


def labels(*names: str) -> dict[str, Any]:
    return {"id2label": {str(number): name for number, name in enumerate(names)}}


def test_same_labels(merge: Merge) -> None:
    merge(labels("bad", "fair", "good"), labels("bad", "fair", "good"))


@pytest.mark.parametrize("other", [("good", "fair", "bad"), ("bad", "so so", "good")])
def test_other_labels(merge: Merge, other: tuple[str, ...], tmp_path: Path) -> None:
    text = (
        r"label sets differ: base has \['bad', 'fair', 'good'\], models\['a'\] has .* "
        r'pass the policy {"exclude": \["classifier\.\*"\]}'
    )
    with pytest.raises(CheckpointError, match=text):
        merge(labels("bad", "fair", "good"), labels(*other))
    assert not (tmp_path / "out").exists()


def test_other_number_of_labels(merge: Merge) -> None:
    with pytest.raises(CheckpointError, match="label sets differ"):
        merge(labels("bad", "fair", "good"), labels("bad", "good"))


def test_other_labels_do_not_matter_without_a_merged_head(merge: Merge) -> None:
    merge(labels("bad", "fair", "good"), labels("good", "bad"), policy={"exclude": ["classifier.*"]})


def test_made_up_names_fit_any(merge: Merge) -> None:
    """transformers writes LABEL_0, ... where nobody named the labels."""
    merge(labels("LABEL_0", "LABEL_1", "LABEL_2"), labels("bad", "fair", "good"))


def test_order_of_the_labels_is_by_number(merge: Merge) -> None:
    many = [f"class {number}" for number in range(12)]
    turned = {"id2label": dict(reversed(labels(*many)["id2label"].items()))}
    merge(labels(*many), turned)


def test_vocabularies_that_agree(merge: Merge) -> None:
    tokenizer = {"model": {"vocab": {"a": 0, "b": 1}}}
    padded = tokenizer | {"padding": {"length": 5}}
    merge({}, {}, files={"tokenizer.json": (tokenizer, padded), "vocab.txt": ("a\nb\n", None)})


@pytest.mark.parametrize(
    ("name", "left", "right"),
    [
        ("tokenizer.json", {"model": {"vocab": {"a": 0, "b": 1}}}, {"model": {"vocab": {"a": 1, "b": 0}}}),
        (
            "tokenizer.json",
            {"model": {"vocab": [["a", 0.0], ["b", 0.0]]}},
            {"model": {"vocab": [["b", 0.0]]}},
        ),
        ("vocab.txt", "a\nb\n", "b\na\n"),
        ("vocab.json", {"a": 0}, {"a": 1}),
    ],
)
def test_other_vocabularies(merge: Merge, name: str, left: Any, right: Any) -> None:
    text = r"vocabularies differ: the token '.' is number . in base and . in models\['a'\]"
    with pytest.raises(CheckpointError, match=text):
        merge({}, {}, files={name: (left, right)})


def test_added_tokens_count(merge: Merge) -> None:
    files = [
        {"model": {"vocab": {"a": 0}}, "added_tokens": [{"id": number, "content": "<x>"}]}
        for number in (1, 2)
    ]
    with pytest.raises(CheckpointError, match="token '<x>' is number 1 in base and 2 in"):
        merge({}, {}, files={"tokenizer.json": files})


def test_two_tokens_of_one_number(merge: Merge) -> None:
    """Such as a reserved token that fine-tuning gave a name."""
    files = [{"model": {"vocab": {"a": 0, name: 1}}} for name in ("<reserved>", "<user>")]
    with pytest.raises(CheckpointError, match=r"number 1 is the token '<reserved>' in base and '<user>' in"):
        merge({}, {}, files={"tokenizer.json": files})


def test_rows_by_number_allow_them(merge: Merge) -> None:
    files = [{"model": {"vocab": {"a": 0, name: 1}}} for name in ("<reserved>", "<user>")]
    merge({}, {}, files={"tokenizer.json": files}, policy={"rows": "base"})


def test_more_tokens_at_the_end_are_fine(merge: Merge) -> None:
    merge({}, {}, files={"vocab.txt": ("a\nb\n", "a\nb\nc\n")})


def test_damaged_tokenizer(merge: Merge) -> None:
    with pytest.raises(CheckpointError, match=r"tokenizer\.json of models\['a'\] is damaged"):
        merge({}, {}, files={"tokenizer.json": ("{}", "{")})


def test_missing_config(write_model: WriteModel, tmp_path: Path) -> None:
    folder = write_model("model", {"w": torch.ones(2)})
    (folder / "config.json").unlink()
    with pytest.raises(CheckpointError, match=r"models\['a'\]: .* it has no config\.json"):
        merge_checkpoints(
            method="average", options={}, base=None, models={"a": folder}, extras={}, out=tmp_path / "out"
        )


@pytest.mark.parametrize(("text", "error"), [("{", "is damaged"), ("[]", "holds no object")])
def test_damaged_config(write_model: WriteModel, tmp_path: Path, text: str, error: str) -> None:
    folder = write_model("model", {"w": torch.ones(2)})
    (folder / "config.json").write_text(text)
    with pytest.raises(CheckpointError, match=rf"config\.json .*{error}"):
        merge_checkpoints(
            method="average", options={}, base=None, models={"a": folder}, extras={}, out=tmp_path / "out"
        )


def test_quantised_model(merge: Merge) -> None:
    with pytest.raises(CheckpointError, match=r"models\['a'\]: .* is quantised .* Use the model in bfloat16"):
        merge({}, {"quantization_config": {"bits": 4}})
