"""Mask Fishers against masks that are really there, differentiated one example at a time."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from merging.errors import MergingError
from merging.hessians import mask_nodes
from merging.hessians._mask_nodes import MaskSquares
from merging.hessians.artifact import StoredHessian
from merging.hessians.estimate import estimate
from merging.sources.stored_statistics import as_input
from torch import Tensor, nn

LENGTHS = (4, 2, 3)
LABELS = torch.tensor([0, 1, 1])
SIZES = {"vocab_size": 11, "pad_token_id": 0, "num_labels": 2}
BERT = {
    "hidden_size": 4,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 6,
}
MODELS: dict[str, tuple[dict[str, Any], Any, Any]] = {  # settings, heads, neurons of layer 1
    "bert": (BERT, "bert.encoder.layer.1.attention.output.dense", "bert.encoder.layer.1.output.dense"),
    "distilbert": (
        {"dim": 4, "hidden_dim": 6, "n_heads": 2, "n_layers": 2},
        "distilbert.transformer.layer.1.attention.out_lin",
        "distilbert.transformer.layer.1.ffn.lin2",
    ),
    "gpt2": (
        {"n_embd": 4, "n_layer": 2, "n_head": 2, "n_positions": 8, "n_inner": 6},
        "transformer.h.1.attn.c_proj",
        "transformer.h.1.mlp.c_proj",
    ),
    "llama": (
        {**BERT, "hidden_size": 8, "num_key_value_heads": 1},
        "model.layers.1.self_attn.o_proj",
        "model.layers.1.mlp.down_proj",
    ),
}


def built(kind: str) -> nn.Module:
    config = transformers.AutoConfig.for_model(kind, **SIZES, **MODELS[kind][0])
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = transformers.AutoModelForSequenceClassification.from_config(config)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(torch.randn_like(parameter), alpha=0.3)
    built: nn.Module = model.double().eval()
    return built


def texts() -> dict[str, Tensor]:
    ids = torch.zeros(len(LENGTHS), max(LENGTHS), dtype=torch.long)
    for row, length in enumerate(LENGTHS):
        ids[row, :length] = torch.arange(length) * (row + 2) % 9 + 1
    return {"input_ids": ids, "attention_mask": (ids != 0).long()}


def logits(model: Any, batch: Any) -> Tensor:
    scores: Tensor = model(**batch).logits
    return scores


@pytest.mark.parametrize("kind", MODELS)
@pytest.mark.parametrize("batch_size", [1, 3])
def test_equal_to_masks_in_the_model(kind: str, batch_size: int) -> None:
    model = built(kind)
    squares = MaskSquares(model, logits, num_heads=2)
    for start in range(0, 3, batch_size):
        rows = slice(start, start + batch_size)
        given = partial(mask_nodes.cotangents, labels=LABELS[rows], examples=(), num_samples=1, seed=0)
        squares.add({key: value[rows] for key, value in texts().items()}, given)

    _, after_heads, after_neurons = MODELS[kind]
    heads = torch.ones(2, dtype=torch.float64, requires_grad=True)
    neurons = torch.ones(6, dtype=torch.float64, requires_grad=True)

    def mask_heads(module: nn.Module, args: Any) -> Any:
        return ((args[0].unflatten(-1, (2, -1)) * heads[:, None]).flatten(-2),)

    model.get_submodule(after_heads).register_forward_pre_hook(mask_heads)
    model.get_submodule(after_neurons).register_forward_pre_hook(lambda module, args: (args[0] * neurons,))
    expected = [torch.zeros(2, dtype=torch.float64), torch.zeros(6, dtype=torch.float64)]
    for row, length in enumerate(LENGTHS):
        scores = logits(model, {key: value[row : row + 1, :length] for key, value in texts().items()})
        found = torch.autograd.grad(scores.log_softmax(-1)[0, LABELS[row]], [heads, neurons])
        for total, gradient in zip(expected, found, strict=True):
            total += gradient**2
    assert squares.num_examples == 3 and squares.heads.shape == (2, 2) and squares.neurons.shape == (2, 6)
    torch.testing.assert_close(squares.heads[1], expected[0])
    torch.testing.assert_close(squares.neurons[1], expected[1])
    assert squares.heads[0].all() and all(parameter.requires_grad for parameter in model.parameters())


def test_an_unknown_architecture() -> None:
    with pytest.raises(MergingError, match="found 0 attention and 0 feed-forward layers in Linear"):
        MaskSquares(nn.Linear(2, 2).eval(), logits, num_heads=2)


def test_two_stacks_of_layers() -> None:
    with pytest.raises(MergingError, match="ModuleDict has several stacks of layers"):
        MaskSquares(nn.ModuleDict({"a": built("bert"), "b": built("bert")}).eval(), logits, num_heads=2)


def test_a_model_without_heads(
    tmp_path: Path, write_vit: Callable[[], Path], write_images: Callable[[], Path]
) -> None:
    folder = write_vit()  # for its image processor
    config = transformers.ResNetConfig(
        num_channels=1, embedding_size=4, hidden_sizes=[4], depths=[1], layer_type="basic"
    )
    config.id2label, config.label2id = {0: "negative", 1: "positive"}, {"negative": 0, "positive": 1}
    transformers.ResNetForImageClassification(config).save_pretrained(folder)
    with pytest.raises(MergingError, match="config of ResNetForImageClassification names no num_attention_h"):
        estimate(
            estimator="mask_nodes",
            task_type="image_classification",
            model=folder,
            data={"data": str(write_images()), "split": "train"},
            options={},
            seed=0,
            out=tmp_path / "out",
        )


def test_a_model_folder(
    tmp_path: Path, write_bert: Callable[..., Path], write_texts: Callable[..., Path]
) -> None:
    estimate(
        estimator="mask_nodes",
        task_type="sequence_classification",
        model=write_bert(),
        data={"data": str(write_texts([0, 1] * 5)), "split": "train"},
        options={"max_tokens": 8},
        seed=0,
        out=tmp_path / "out",
    )
    stored = StoredHessian(tmp_path / "out", label="mask_fishers['a']")
    assert stored.record.statistic == "mask_nodes" and stored.record.num_examples == 10
    fisher: Any = as_input(stored, key="mask_fishers")
    assert fisher.of("any").heads.shape == (1, 2) and fisher.of("any").neurons.shape == (1, 12)


def test_images(tmp_path: Path, write_vit: Callable[[], Path], write_images: Callable[[], Path]) -> None:
    estimate(
        estimator="mask_nodes",
        task_type="image_classification",
        model=write_vit(),
        data={"data": str(write_images()), "split": "train"},
        options={},
        seed=0,
        out=tmp_path / "out",
    )
    fisher: Any = as_input(StoredHessian(tmp_path / "out", label="mask_fishers['a']"), key="mask_fishers")
    assert fisher.of("any").heads.all() and fisher.of("any").neurons.shape == (1, 12)
