"""The collapsed step against a graph through the merge."""

from collections.abc import Mapping
from typing import Any

import pytest
import torch
from merging.adaptation import adamerging
from merging.adaptation.adamerging import Coefficients
from merging.adaptation.options import AdaMergingOptions
from merging.errors import DivergenceError, OptionError
from torch import Tensor

SHAPES = {"a": (3, 4), "b": (3,), "unused": (2,)}


def tensors(seed: int, *leading: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {
        name: torch.randn(*leading, *shape, generator=generator, dtype=torch.float64)
        for name, shape in SHAPES.items()
    }


BASE, VECTORS = tensors(0), tensors(1, 2)


def loss(theta: Mapping[str, Tensor], batch: int) -> Tensor:
    x = torch.linspace(-1, 1, 4, dtype=torch.float64) + batch
    return (theta["a"] @ x + theta["b"]).tanh().square().sum()


def coefficients(**options: Any) -> Coefficients:
    flat = {name: its.flatten(1) for name, its in VECTORS.items()}
    return Coefficients(BASE, flat, ["x", "y"], AdaMergingOptions(**options))


@pytest.mark.parametrize("granularity", ["tensor", "task"])
@pytest.mark.parametrize("clamp", [None, (0.29, 0.31)])
def test_steps_agree_with_autograd(granularity: Any, clamp: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(adamerging, "_CHUNK", 5)  # tensors of 12 elements are then summed up in three parts
    ours = coefficients(granularity=granularity, clamp=clamp, learning_rate=0.02)
    raw = torch.full((3 if granularity == "tensor" else 1, 2), 0.3, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.Adam([raw], lr=0.02)
    for step in range(4):
        value = ours.step(loss(ours.leaves, step + batch) for batch in range(2))
        used = (raw.clamp(*clamp) if clamp else raw).expand(3, 2)
        theta = {
            name: its + torch.tensordot(used[number], VECTORS[name], 1)
            for number, (name, its) in enumerate(BASE.items())
        }
        total = sum(loss(theta, step + batch) for batch in range(2))
        assert isinstance(total, Tensor)
        assert value == pytest.approx(float(total.detach()), rel=1e-12)
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
        torch.testing.assert_close(ours.raw, raw)
    assert (clamp is None) == bool((ours.effective() == ours.raw).all())


def test_what_no_loss_reads_keeps_its_coefficients() -> None:
    ours = coefficients()
    ours.step([loss(ours.leaves, 0)])
    found = ours.by_tensor()
    assert found["unused"] == {"x": 0.3, "y": 0.3}
    assert 0.3 not in found["a"].values()


def test_the_leaves_are_the_merge() -> None:
    ours = coefficients(initial=0.5, clamp=None)
    for name, leaf in ours.leaves.items():
        torch.testing.assert_close(leaf.detach(), BASE[name] + 0.5 * VECTORS[name].sum(0))


def test_a_loss_that_is_no_number_is_an_error() -> None:
    ours = coefficients()
    with pytest.raises(DivergenceError, match="the entropy is nan"):
        ours.step([loss(ours.leaves, 0) * torch.nan])


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"clamp": (1.0, 0.0)}, r"clamp must be \(low, high\)"),
        ({"density": 20.0}, "density must be > 0 and <= 1, got 20"),
        ({"num_steps": 0}, "adamerging: num_steps must be 1 or more, got 0"),
        ({"learning_rate": 0.0}, "learning_rate must be > 0"),
        ({"betas": (0.9, 1.0)}, "betas must be >= 0 and < 1"),
        ({"collapse": 1.0}, "collapse must be"),
        ({"batches_per_step": 0}, "batches_per_step must be 1 or more"),
    ],
)
def test_options_out_of_range(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        AdaMergingOptions(**wrong)
