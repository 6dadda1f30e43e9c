"""Models stacked of layers of others."""

from typing import Any

import pytest
import torch
from merging.errors import CheckpointError, OptionError
from merging.sources.layers import (
    LayerStack,
    Part,
    Stack,
    find_stack,
    is_before_layers,
    join_name,
    split_name,
    stacked_config,
    stacks,
)
from merging.sources.memory import MemoryCheckpoint


def model(number: float, *, num_layers: int = 3, prefix: str = "model.layers") -> MemoryCheckpoint:
    """Every tensor says where it is from: model + layer / 10, head and embedding the model."""
    tensors = {
        "model.embed_tokens.weight": torch.full((4, 2), number),
        "model.norm.weight": torch.full((2,), number),
        "lm_head.weight": torch.full((4, 2), number),
    }
    for layer in range(num_layers):
        for name in ("mlp.experts.0.weight", "mlp.experts.1.weight", "norm.weight"):
            tensors[f"{prefix}.{layer}.{name}"] = torch.full((2,), number + layer / 10)
    return MemoryCheckpoint(tensors, label=f"m{number:g}")


def parts(*ranges: tuple[MemoryCheckpoint, int, int]) -> list[Part]:
    return [Part(its, Stack("model.layers", 3), start, stop) for its, start, stop in ranges]


def test_a_stack() -> None:
    stacked = LayerStack(parts((model(1), 0, 2), (model(2), 1, 3)), label="stack")
    found = [float(stacked.read(f"model.layers.{layer}.mlp.experts.1.weight")[0]) for layer in range(4)]
    assert found == pytest.approx([1.0, 1.1, 2.1, 2.2])
    assert float(stacked.read("model.embed_tokens.weight")[0, 0]) == 1.0
    assert float(stacked.read_piece("model.norm.weight", 1, 2)) == 2.0
    assert float(stacked.read("lm_head.weight")[0, 0]) == 2.0
    assert len(stacked.tensors) == 3 + 4 * 3
    assert stacked.tensors["lm_head.weight"].shape == (4, 2)


def test_layers_that_do_not_exist() -> None:
    with pytest.raises(
        OptionError, match=r"m1: layer_range \[1, 4\] is out of range: it has the layers 0 to 2"
    ):
        parts((model(1), 1, 4))


@pytest.mark.parametrize("name", ["model.layers.3.mlp.0.weight", "0.weight", "blocks.12"])
def test_names(name: str) -> None:
    found = split_name(name)
    assert found is not None
    assert join_name(*found) == name


def test_a_head_that_is_missing() -> None:
    tied = MemoryCheckpoint(
        {name: model(2).read(name) for name in model(2).tensors if name != "lm_head.weight"}, label="tied"
    )
    with pytest.raises(CheckpointError, match=r"'lm_head\.weight' follows the layers.*tied, which lacks it"):
        LayerStack(parts((model(1), 0, 2), (tied, 1, 3)), label="stack")


def test_other_names_of_layers() -> None:
    other = Part(model(2, prefix="transformer.h"), Stack("transformer.h", 3), 0, 1)
    with pytest.raises(CheckpointError, match=r"'model\.layers' in m1 and 'transformer\.h' in m2"):
        LayerStack([*parts((model(1), 0, 2)), other], label="stack")


def test_stacks_are_found() -> None:
    assert find_stack(model(1), {}) == Stack("model.layers", 3)
    names = ["encoder.block.0.a", "encoder.block.1.a", "decoder.block.0.layer.1.a", "shared.weight"]
    assert stacks(names) == [Stack("decoder.block", 1), Stack("encoder.block", 2)]
    towers = MemoryCheckpoint({name: torch.ones(1) for name in names}, label="t5")
    assert find_stack(towers, {"num_layers": 2}) == Stack("encoder.block", 2)
    with pytest.raises(CheckpointError, match=r"t5: cannot tell its layers: .*encoder\.block \(2\)"):
        find_stack(towers, {})


@pytest.mark.parametrize(
    "name",
    [
        "model.embed_tokens.weight", "bert.embeddings.LayerNorm.weight", "transformer.wte.weight",
        "transformer.wpe.weight", "shared.weight", "transformer.word_embeddings_layernorm.bias",
        "gpt_neox.embed_in.weight", "model.rotary_emb.inv_freq",
    ],
)  # fmt: skip
def test_before_the_layers(name: str) -> None:
    assert is_before_layers(name)


@pytest.mark.parametrize("name", ["model.norm.weight", "lm_head.weight", "embed_out.weight", "score.weight"])
def test_after_the_layers(name: str) -> None:
    assert not is_before_layers(name)


def test_config() -> None:
    first: dict[str, Any] = {
        "num_hidden_layers": 3,
        "layer_types": ["a", "b", "c"],
        "eos_token_id": [1, 2, 3],
    }
    other = {"num_hidden_layers": 2, "layer_types": ["x", "y"]}
    assert stacked_config(first, [(first, 1, 3), (other, 0, 1)]) == {
        "num_hidden_layers": 3,
        "layer_types": ["b", "c", "x"],
        "eos_token_id": [1, 2, 3],
    }
    nested = {"text_config": {"num_hidden_layers": 3}, "model_type": "a"}
    assert stacked_config(nested, [(nested, 0, 3), (nested, 1, 3)])["text_config"] == {"num_hidden_layers": 5}
