"""Which tokens a merged model knows, and the rows it gets: small vocabularies, by hand."""

from typing import Any

import pytest
import torch
from merging.errors import CheckpointError, OptionError
from merging.sources.memory import MemoryCheckpoint
from merging.sources.vocabulary import FILLED, PADDING, Rows, VocabularySource, vocabulary_tensors
from merging.vocabulary.joint import Given, Joint, Member, make_joint
from torch import Tensor

BASE = Member({"a": 0, "b": 1, "c": 2}, 4)  # row 3 is padding
LEFT = Member({"b": 0, "a": 1, "x": 2}, 3)
RIGHT = Member({"a": 0, "x": 1, "y": 2}, 3)
MEMBERS = {"base": BASE, "left": LEFT, "right": RIGHT}


def joint(kind: Any, **change: Any) -> Joint:
    arguments: dict[str, Any] = {"reference": BASE.tokens, "num_rows": BASE.num_rows, "base": "base"}
    return make_joint(kind, MEMBERS, **arguments | change)


def test_base() -> None:
    its = joint("base")
    assert its.tokens == BASE.tokens
    assert its.own["base"] == [0, 1, 2, 3]  # its padding row stays
    assert its.own["left"] == [1, 0, FILLED, FILLED]
    assert its.own["right"] == [0, FILLED, FILLED, FILLED]
    assert its.donors == {1: [("base", 1)], 2: [("base", 2)], 3: [("base", 3)]}
    assert its.num_filled == {"base": 0, "left": 2, "right": 3}


def test_union() -> None:
    its = joint("union")
    assert its.tokens == {"a": 0, "b": 1, "c": 2, "x": 3, "y": 4}
    assert its.own["base"] == [0, 1, 2, FILLED, FILLED]
    assert its.own["left"] == [1, 0, FILLED, 2, FILLED]
    assert its.donors[3] == [("left", 2), ("right", 1)]  # the mean over those who have it
    assert its.donors[4] == [("right", 2)]


def test_union_without_a_base_takes_means() -> None:
    its = make_joint("union", {"left": LEFT, "right": RIGHT}, reference=LEFT.tokens, num_rows=3, base=None)
    assert its.tokens == {"b": 0, "a": 1, "x": 2, "y": 3}
    assert its.donors == {0: [("left", 0)], 3: [("right", 2)]}


def test_intersection() -> None:
    its = joint("intersect")
    assert its.tokens == {"a": 0}
    assert (its.own["base"], its.own["left"], its.own["right"]) == ([0], [1], [0])
    strangers = {"base": BASE, "other": Member({"z": 0}, 1)}
    with pytest.raises(CheckpointError, match="no token in common"):
        make_joint("intersect", strangers, reference=BASE.tokens, num_rows=4, base="base")


def test_padding_to_a_multiple() -> None:
    its = joint("union", multiple=8)
    assert its.num_rows == 8
    assert its.own["base"][5:] == [PADDING] * 3
    assert joint("intersect", multiple=2).own["left"] == [1, PADDING]


def test_tokens_beyond_the_embedding_have_no_row() -> None:
    its = make_joint(
        "base",
        {"base": BASE, "left": Member({"a": 0, "b": 7, "c": 1}, 2)},
        reference=BASE.tokens,
        num_rows=4,
        base="base",
    )
    assert its.own["left"][1] == FILLED


def test_given_rows() -> None:
    its = joint("union", given={"a": Given("left", 1, force=True), "y": Given(None), "c": Given("right", 0)})
    assert [own[0] for own in its.own.values()] == [FILLED] * 3
    assert its.donors[0] == [("left", 1)]
    assert its.donors[4] == []
    assert its.own["right"][4] == 2  # not forced: it knows the token
    assert its.donors[2] == [("right", 0)]
    with pytest.raises(OptionError, match="unknown token 'q'"):
        joint("union", given={"q": Given(None)})


def source(tensors: dict[str, Tensor]) -> MemoryCheckpoint:
    return MemoryCheckpoint(tensors, label="model")


def test_rows_are_rearranged() -> None:
    generator = torch.Generator().manual_seed(0)
    model = source(
        {
            "embed_tokens.weight": torch.randn(4, 3, generator=generator),
            "lm_head.bias": torch.arange(4.0),
            "final_logits_bias": torch.arange(4.0).reshape(1, 4),
            "layers.0.weight": torch.randn(4, 4, generator=generator),
        }
    )
    donor = source({"embed_tokens.weight": torch.full((2, 3), 8.0), "lm_head.bias": torch.tensor([5.0, 6.0])})
    rows = Rows([2, 3, 0, FILLED, FILLED, 1, PADDING, PADDING], {3: [(donor, 1), (model, 0)], 4: []})
    names = vocabulary_tensors(model.tensors, 4)
    assert names == {"embed_tokens.weight", "lm_head.bias", "final_logits_bias"}
    view = VocabularySource(model, rows, names - {"final_logits_bias"})
    before = model.read("embed_tokens.weight")
    expected = torch.stack([before[2], before[3], before[0], (8 + before[0]) / 2, torch.zeros(3), before[1]])
    expected = torch.cat([expected, expected.mean(0).expand(2, 3)])
    torch.testing.assert_close(view.read("embed_tokens.weight"), expected)
    assert view.tensors["embed_tokens.weight"].shape == (8, 3)
    assert view.read("lm_head.bias")[:6].tolist() == [2, 3, 0, 3, 0, 1]
    assert torch.equal(view.read("layers.0.weight"), model.read("layers.0.weight"))
    for start in range(24):
        for stop in range(start, 25):
            piece = view.read_piece("embed_tokens.weight", start, stop)
            assert torch.equal(piece, view.read("embed_tokens.weight").reshape(-1)[start:stop])


def test_one_row_for_all() -> None:
    model = source({"final_logits_bias": torch.arange(3.0).reshape(1, 3)})
    view = VocabularySource(model, Rows([2, 0], {}), ["final_logits_bias"])
    assert view.read("final_logits_bias").tolist() == [[2.0, 0.0]]


def test_curvature_of_missing_tokens_is_zero() -> None:
    its = joint("union", multiple=8)
    hessian = source({"wte.weight": torch.ones(3, 2)})
    view = VocabularySource(hessian, its.curvature_rows("left"), ["wte.weight"])
    assert view.read("wte.weight")[:, 0].tolist() == [1, 1, 0, 1, 0, 0, 0, 0]


def test_dtype_stays() -> None:
    model = source({"wte.weight": torch.ones(2, 2, dtype=torch.bfloat16)})
    view = VocabularySource(model, Rows([1, FILLED, PADDING], {1: [(model, 0)]}), ["wte.weight"])
    assert view.read("wte.weight").dtype == torch.bfloat16
    assert torch.equal(view.read("wte.weight").float(), torch.ones(3, 2))


def test_tensors_by_chance() -> None:
    tensors = source(
        {
            "bert.embeddings.word_embeddings.weight": torch.ones(16, 16),
            "bert.embeddings.position_embeddings.weight": torch.ones(16, 16),
            "bert.pooler.dense.weight": torch.ones(16, 16),
            "encoder.layer.0.output.weight": torch.ones(16, 16),
            "cls.predictions.bias": torch.ones(16),
            "cls.predictions.transform.dense.bias": torch.ones(16),
            "embeddings.norm.weight": torch.ones(16),
        }
    ).tensors
    assert vocabulary_tensors(tensors, 16) == {
        "bert.embeddings.word_embeddings.weight",
        "cls.predictions.bias",
    }
