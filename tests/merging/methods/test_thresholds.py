"""The largest magnitudes against a stable sort, in pieces of many sizes."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from merging import kernels
from merging.methods import _thresholds
from merging.methods._seam import Parameter
from merging.methods._thresholds import Cut, largest
from torch import Tensor


@pytest.fixture(autouse=True, params=["fused", "torch"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the kernels, and as it is without a compiler."""
    if request.param == "torch":
        monkeypatch.setattr(kernels, "can_fuse", lambda *tensors: False)
    elif not kernels.is_built():
        pytest.skip("there was no C compiler when the package was installed")


class Piece(dict[str, Any]):
    parameter: Parameter
    options = None


class Pieces:
    """One parameter in pieces; the base is 0, so models are task vectors."""

    def __init__(self, models: dict[str, Tensor], size: int) -> None:
        self.num_reads = 0
        self.size = size
        self.models = models
        self.total = len(next(iter(models.values())))

    def __iter__(self) -> Iterator[Piece]:
        for start in range(0, self.total, self.size):
            part = {task: model[start : start + self.size] for task, model in self.models.items()}
            length = len(next(iter(part.values())))
            dtype = next(iter(part.values())).dtype
            piece = Piece(base=torch.zeros(length, dtype=dtype), models=part)
            piece.parameter = Parameter("w", (self.total,), start=start, size=length)
            yield piece

    def map(self, function: Callable[[Piece], Any]) -> list[Any]:
        return [function(piece) for piece in self]


def kept(cut: Cut, vector: Tensor, size: int) -> Tensor:
    return torch.cat([cut.keep_(vector[at : at + size].clone(), at) for at in range(0, len(vector), size)])


def by_sort(vector: Tensor, count: int) -> Tensor:
    order = vector.abs().argsort(descending=True, stable=True)[:count]
    return torch.zeros_like(vector).scatter(0, order, vector[order])


def random(total: int, *, steps: int | None, growing: bool) -> dict[str, Tensor]:
    """Normal numbers; ``steps``: rounded, so that many are equal; ``growing``: larger towards the end."""
    generator = torch.Generator().manual_seed(total)
    models = {}
    for task in "ab":
        vector = torch.randn(total, generator=generator)
        if growing:
            vector *= torch.linspace(0.1, 10, total) ** 2
        models[task] = (vector * steps).round() / steps if steps else vector
    return models


@pytest.mark.parametrize("growing", [False, True])
@pytest.mark.parametrize("steps", [None, 2, 20])
@pytest.mark.parametrize(("total", "size"), [(37, 7), (1000, 1000), (20_000, 500)])
def test_largest(
    total: int, size: int, steps: int | None, growing: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_thresholds, "_COLLECT_ALL", 500)
    monkeypatch.setattr(_thresholds, "_SAMPLED_ELEMENTS", (100, 500))
    models = random(total, steps=steps, growing=growing)
    counts = [0, 1, total // 50, total // 5, total // 2, total - 1, total, total + 3]
    found = largest(Pieces(models, size), {"a": counts, "b": counts[2:4]})
    for task, its in (("a", counts), ("b", counts[2:4])):
        for count, cut in zip(its, found[task], strict=True):
            expected = by_sort(models[task], count)
            assert torch.equal(kept(cut, models[task], size), expected)
            dropped = cut.drop_(models[task].clone())
            assert torch.equal(dropped, models[task] - expected) or cut.value <= 0
    with_ties = largest(Pieces(models, size), {"a": [total // 5]}, with_ties=True)["a"][0]
    threshold = by_sort(models["a"], total // 5).abs()
    threshold = threshold[threshold > 0].min()
    expected = torch.where(models["a"].abs() >= threshold, models["a"], 0)
    assert torch.equal(kept(with_ties, models["a"], size), expected)


def test_a_bracket_that_misses_is_widened(monkeypatch: pytest.MonkeyPatch) -> None:
    """One piece in four is sampled; what is sought lies in pieces that the sample does not see."""
    monkeypatch.setattr(_thresholds, "_COLLECT_ALL", 500)
    monkeypatch.setattr(_thresholds, "_SAMPLED_PIECES", (4, 4))
    vector = torch.arange(1.0, 4001.0) / 4000
    seen = _thresholds._spread([100] * 40, 1000)
    for number in range(40):
        if number not in seen:
            vector[100 * number : 100 * number + 100] += 10
    for count in (1, 100, 2000, 3000, 3999):
        cut = largest(Pieces({"a": vector}, 100), {"a": [count]})["a"][0]
        assert torch.equal(kept(cut, vector, 100), by_sort(vector, count))


def test_float64_thresholds_are_exact() -> None:
    vector = 1 + torch.arange(1000, dtype=torch.float64) * 2**-52
    cut = largest(Pieces({"a": vector}, 300), {"a": [400]})["a"][0]
    assert torch.equal(kept(cut, vector, 300), by_sort(vector, 400))


@pytest.mark.parametrize("bracket", [(0.0, float("inf")), (0.5, 1.5), (1.0, 1.0), (0.5, 0.51)])
def test_tensors_of_a_device_are_counted_like_arrays(bracket: tuple[float, float]) -> None:
    """What is on a device stays a tensor."""
    magnitudes = random(1000, steps=4, growing=False)["a"].abs()
    tensors, arrays = (
        _thresholds._count(magnitudes, *bracket, _thresholds._Store()),
        _thresholds._count(magnitudes.numpy(), *bracket, _thresholds._Store()),
    )
    assert (tensors.above, tensors.at_high, tensors.at_low) == (arrays.above, arrays.at_high, arrays.at_low)
    assert tensors.inside.tolist() == arrays.inside.tolist()
    low, high = bracket
    assert tensors.above == int((magnitudes > high).sum())
    within = int(((magnitudes >= low) & (magnitudes <= high)).sum())
    assert tensors.at_high + tensors.at_low + len(tensors.inside) == within
