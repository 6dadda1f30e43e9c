from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
from merging.errors import CheckpointError, OptionError
from merging.merge import tensor_merge
from merging.merge.streaming import merge_tensors
from merging.methods import fisher_mask_nodes
from merging.methods._node_roles import Place, place
from merging.methods._seam import MaskFisher
from merging.methods._weights import WeightRange
from torch import Tensor
from torch.testing import assert_close

MakeInputs = Callable[..., dict[str, Any]]
Run = Callable[..., Tensor]

HEADS = {"a": [[1.0, 3.0], [2.0, 0.0]], "b": [[1.0, 1.0], [0.0, 0.0]]}
NEURONS = {"a": [[1.0, 0.0, 2.0], [3.0, 3.0, 3.0]], "b": [[1.0, 4.0, 1.0], [1.0, 2.0, 3.0]]}
FISHERS = {task: MaskFisher(torch.tensor(HEADS[task]), torch.tensor(NEURONS[task])) for task in HEADS}


def merge(
    shapes: Mapping[str, tuple[int, ...]],
    fishers: Mapping[str, MaskFisher] = FISHERS,
    transposed: tuple[str, ...] = (),
    **options: Any,
) -> dict[str, Tensor]:
    """The first model has zeros only, the next ones, and so on: of two, the result is the second's share."""
    models = {
        task: {name: torch.full(shape, float(number)) for name, shape in shapes.items()}
        for number, task in enumerate(sorted(fishers))
    }
    return merge_tensors(
        method="fisher_mask_nodes",
        options={"floor": 0.0, **options},
        base=None,
        models=models,
        extras={"mask_fishers": fishers},
        transposed=transposed,
    )


def test_heads_neurons_and_the_rest() -> None:
    layer = "bert.encoder.layer.0."
    expected = {
        layer + "attention.self.query.weight": torch.tensor([0.5, 0.5, 0.25, 0.25])[:, None].expand(4, 4),
        layer + "attention.self.key.bias": torch.tensor([0.5, 0.5, 0.25, 0.25]),
        layer + "attention.self.value.weight": torch.full((4, 4), 1 / 3),
        layer + "attention.output.LayerNorm.weight": torch.full((4,), 1 / 3),
        layer + "intermediate.dense.weight": torch.tensor([0.5, 1.0, 1 / 3])[:, None].expand(3, 4),
        layer + "intermediate.dense.bias": torch.tensor([0.5, 1.0, 1 / 3]),
        layer + "output.dense.weight": torch.full((4, 3), 2 / 3),
        "bert.encoder.layer.1.attention.output.dense.bias": torch.zeros(4),
        "bert.encoder.layer.1.output.LayerNorm.bias": torch.full((4,), 2 / 5),
        "bert.pooler.dense.weight": torch.full((4, 4), 2.5 / 6),
    }
    merged = merge({name: tuple(its.shape) for name, its in expected.items()})
    for name, tensor in expected.items():
        assert_close(merged[name], tensor, msg=lambda text, name=name: f"{name}: {text}")


def test_a_node_that_nobody_knows_is_averaged() -> None:
    name = "encoder.layer.1.attention.self.query.weight"
    assert merge({name: (2, 1)})[name].flatten().tolist() == [0.0, 0.5]
    assert (
        merge({"bert.pooler.dense.bias": (2,)}, universal=False)["bert.pooler.dense.bias"].tolist()
        == [0.5] * 2
    )


def test_the_floor_is_relative_to_the_mean() -> None:
    """Means are 1.5 and 0.5 for heads, 2 and 2 for neurons."""
    query, inner = "h.1.attention.self.query.bias", "h.0.intermediate.dense.bias"
    merged = merge({query: (2,), inner: (3,)}, floor=0.1)
    assert_close(merged[query], torch.tensor([0.05 / 2.2, 0.05 / 0.2]))
    assert_close(merged[inner], torch.tensor([0.5, 4.2 / 4.4, 1.2 / 3.4]))


def test_query_and_key_of_llama_with_shared_keys() -> None:
    """Four query heads of two rows, two key heads: a key head has the mean of its two query heads."""
    fishers = {
        "a": MaskFisher(torch.tensor([[1.0, 3.0, 5.0, 1.0]]), torch.ones(1, 3)),
        "b": MaskFisher(torch.tensor([[1.0, 1.0, 5.0, 4.0]]), torch.ones(1, 3)),
    }
    layer = "model.layers.0.self_attn."
    shapes = {layer + "q_proj.weight": (8, 5), layer + "k_proj.weight": (4, 5), layer + "k_norm.weight": (2,)}
    merged = merge(shapes, fishers)
    assert_close(merged[layer + "q_proj.weight"][::2, 0], torch.tensor([0.5, 0.25, 0.5, 0.8]))
    assert_close(merged[layer + "k_proj.weight"][:, 0], torch.tensor([1 / 3, 1 / 3, 0.6, 0.6]))
    assert_close(merged[layer + "k_norm.weight"], torch.tensor([11 / 21, 11 / 21]))


def test_fused_and_transposed_as_in_gpt2() -> None:
    weight, bias = "transformer.h.0.attn.c_attn.weight", "transformer.h.0.attn.c_attn.bias"
    inner = "transformer.h.0.mlp.c_fc.weight"
    merged = merge({weight: (4, 12), bias: (12,), inner: (4, 3)}, transposed=(weight, inner))
    heads = [0.5, 0.5, 0.25, 0.25]
    expected = torch.tensor([*heads, *heads, *[1 / 3] * 4])
    assert_close(merged[bias], expected)
    assert_close(merged[weight], expected.expand(4, 12))
    assert_close(merged[inner], torch.tensor([0.5, 1.0, 1 / 3]).expand(4, 3))


def test_rows_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    shapes = {"layer.0.attention.self.query.weight": (6, 5), "layer.0.intermediate.dense.weight": (3, 5)}
    whole = merge(shapes)
    monkeypatch.setattr(tensor_merge, "PIECE", 7)
    pieces = merge(shapes)
    for name in shapes:
        assert torch.equal(pieces[name], whole[name])


def test_equal_fishers_are_the_average(make_inputs: MakeInputs, run: Run) -> None:
    inputs = make_inputs("fisher_mask_nodes")
    inputs["mask_fishers"] = dict.fromkeys("abc", inputs["mask_fishers"]["a"])
    assert_close(run("fisher_mask_nodes", inputs), run("average", {"models": inputs["models"]}))


def test_parity_adds_in_turn() -> None:
    """0 and 0 become 1 and 1; the third 0 meets their sum, 2, and says nothing."""
    zero = MaskFisher(torch.zeros(1, 1), torch.ones(1, 1))
    name = "layer.0.attention.self.query.bias"
    fishers = dict.fromkeys("abc", zero)
    assert merge({name: (1,)}, fishers)[name].tolist() == [1.0]
    assert merge({name: (1,)}, fishers, parity=True)[name].tolist() == [0.5]


def test_parity_sums_what_has_no_weight() -> None:
    ones = MaskFisher(torch.ones(1, 1), torch.ones(1, 1))
    fishers = dict.fromkeys("abc", ones)
    two = {task: fishers[task] for task in "bc"}
    assert merge({"embeddings": (1,)}, two, parity=True, universal=False)["embeddings"].tolist() == [1.0]
    merged = merge({"embeddings": (1,)}, fishers, parity=True, universal=False)["embeddings"]
    assert_close(merged, torch.tensor([2 / 3 * (0 + 1) + 1 / 3 * 2]))


def test_weights_are_told() -> None:
    seen = WeightRange()
    models = {task: torch.ones(3) for task in "ab"}
    name = "layer.0.intermediate.dense.bias"
    fisher_mask_nodes.merge(
        models,
        FISHERS,
        tensor_merge.Where(name, (3,)),
        fisher_mask_nodes.Options(floor=0.0),
        fisher_mask_nodes.Summary(),
        watch=seen,
    )
    assert seen.by_task["b"] == (pytest.approx(1 / 3), 1.0)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("roberta.encoder.layer.3.attention.self.query.weight", Place("query", 3)),
        ("vit.encoder.layer.2.attention.attention.key.bias", Place("key", 2)),
        ("distilbert.transformer.layer.1.attention.q_lin.weight", Place("query", 1)),
        ("distilbert.transformer.layer.1.sa_layer_norm.bias", Place("attention", 1)),
        ("distilbert.transformer.layer.1.ffn.lin1.weight", Place("neurons", 1)),
        ("transformer.h.11.ln_2.weight", Place("feedforward", 11)),
        ("h.0.attn.c_proj.weight", Place("attention", 0)),
        ("model.layers.7.mlp.gate_proj.weight", Place("neurons", 7)),
        ("model.layers.7.mlp.down_proj.weight", Place("feedforward", 7)),
        ("deberta.encoder.layer.1.attention.self.key_proj.bias", Place("key", 1)),
        ("model.decoder.layers.1.self_attn.out_proj.weight", Place("attention", 1)),
        ("model.decoder.layers.1.fc1.bias", Place("neurons", 1)),
        ("vision_model.encoder.layers.1.layer_norm2.weight", Place("feedforward", 1)),
        ("model.embed_tokens.weight", Place("outside")),
        ("bert.embeddings.LayerNorm.weight", Place("outside")),
        ("classifier.0.weight", Place("outside")),
        ("lm_head.weight", Place("outside")),
    ],
)
def test_places(name: str, expected: Place) -> None:
    assert place(name) == expected


def test_an_unknown_part_of_a_layer() -> None:
    with pytest.raises(
        OptionError, match=r"'h\.0\.moe\.gate\.weight' is in a layer, but 'moe\.gate' is no known"
    ):
        merge({"h.0.moe.gate.weight": (2, 2)})


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("h.2.ln_1.weight", (4,)),
        ("h.0.mlp.c_fc.bias", (6,)),
        ("h.0.attn.c_attn.bias", (9,)),
        ("h.0.attention.self.query.bias", (3,)),
        ("h.0.attention.self.query.bias", (1,)),
    ],
)
def test_fishers_of_another_model(name: str, shape: tuple[int, ...]) -> None:
    with pytest.raises(CheckpointError, match=r"heads \(2, 2\) and neurons \(2, 3\) do not fit 'h\.\d\."):
        merge({name: shape})


def test_fishers_that_differ_between_tasks() -> None:
    fishers = {**FISHERS, "b": MaskFisher(torch.ones(2, 1), torch.ones(2, 3))}
    with pytest.raises(
        CheckpointError, match=r"numbers of nodes differ between the tasks \['a', 'b'\]: \[2, 1\]"
    ):
        merge({"h.0.attention.self.query.bias": (4,)}, fishers)


def test_layers_of_different_widths() -> None:
    names = [f"h.{layer}.attention.self.query.bias" for layer in (0, 1)]
    with pytest.raises(CheckpointError, match=r"one number of rows in all layers, got \[4, 6\]"):
        merge({names[0]: (4,), names[1]: (6,)})


def test_a_floor_below_zero() -> None:
    with pytest.raises(OptionError, match=r"fisher_mask_nodes: floor must be finite and >= 0, got -1\.0"):
        fisher_mask_nodes.Options(floor=-1.0)
