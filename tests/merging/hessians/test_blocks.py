"""Blocks of vectors against the gradients of single examples by plain autograd."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from merging.hessians import block_empirical
from merging.hessians._blocks import OuterProducts
from merging.hessians.artifact import StoredHessian
from merging.hessians.estimate import estimate
from merging.sources.stored_statistics import as_input
from torch import Tensor, nn

LABELS = torch.tensor([0, 1, 1, 0, 1])


class Scaled(nn.Module):
    """A linear layer whose outputs are scaled, as (IA)3 scales keys: the vector is stored as (d, 1)."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 3)
        self.norm = nn.LayerNorm(3)
        self.scale = nn.Parameter(torch.full((3, 1), 1.5))
        self.head = nn.Linear(3, 2)
        self.frozen = nn.Parameter(torch.ones(2), requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.norm(self.linear(x) * self.scale.flatten())
        return self.head(hidden.tanh().mean(1)) * self.frozen


def built() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Scaled().double().eval()


@pytest.mark.parametrize("batch_size", [1, 2, 5])
def test_equal_to_single_examples(batch_size: int) -> None:
    model = built()
    x = torch.randn(5, 6, 4, generator=torch.Generator().manual_seed(0)).double()
    products = OuterProducts(model, lambda model, batch: model(batch["x"]))
    for start in range(0, 5, batch_size):
        rows = slice(start, start + batch_size)
        given = partial(block_empirical.cotangents, labels=LABELS[rows], examples=(), num_samples=1, seed=0)
        products.add({"x": x[rows]}, given)
    vectors = {n: p for n, p in model.named_parameters() if n in products.sums}
    assert vectors.keys() == {"linear.bias", "norm.weight", "norm.bias", "scale", "head.bias"}
    assert products.shapes["scale"] == (3, 1) and products.num_examples == 5
    expected = {n: torch.zeros(p.numel(), p.numel()).double() for n, p in vectors.items()}
    for row, label in enumerate(LABELS):
        score = model(x[row : row + 1]).log_softmax(-1)[0, label]
        for name, gradient in zip(vectors, torch.autograd.grad(score, list(vectors.values())), strict=True):
            expected[name] += torch.outer(gradient.flatten(), gradient.flatten())
    for name, total in products.sums.items():
        torch.testing.assert_close(total, expected[name])
    assert [n for n, p in model.named_parameters() if not p.requires_grad] == ["frozen"]


def test_a_model_folder(
    tmp_path: Path, write_bert: Callable[..., Path], write_texts: Callable[..., Path]
) -> None:
    """The diagonals of the blocks are the diagonal of the same estimate."""
    model, data = write_bert(), write_texts([0, 1] * 5)
    stored = {}
    for estimator in ("block_mc", "fisher_mc"):
        estimate(
            estimator=estimator,
            task_type="sequence_classification",
            model=model,
            data={"data": str(data), "split": "train"},
            options={"max_tokens": 8},
            seed=0,
            out=tmp_path / estimator,
        )
        stored[estimator] = StoredHessian(tmp_path / estimator, label="blocks['a']")
    blocks: Any = as_input(stored["block_mc"], key="blocks")
    diagonal = stored["fisher_mc"].checkpoint
    assert set(blocks.names) == {n for n, info in diagonal.tensors.items() if len(info.shape) == 1}
    for name in blocks.names:
        torch.testing.assert_close(blocks.of(name).diagonal() / 10, diagonal.read(name))
