"""What is fused in C gives what torch gives, bit for bit."""

from typing import Any
from unittest.mock import MagicMock

import pytest
import torch
from merging import kernels
from merging.merge.streaming import merge_tensors
from merging.methods import gradient_matching, ties
from merging.methods._seam import Parameter
from merging.methods._thresholds import Cut
from merging.methods._weights import WeightRange
from torch import Tensor

Tensors = dict[str, Tensor]

WEIGHTS = {"a": 0.3, "b": 0.7, "c": -0.2, "d": 1.0}
SHAPES = ((1,), (7,), (5, 13), (3, 1000), (2049,), (70, 1001))
"""Below, at and above a block."""

CASES: list[tuple[str, dict[str, Any]]] = [
    ("ties", {}),
    ("ties", {"density": 1.0, "scaling_factor": 0.7}),
    ("ties", {"weights": WEIGHTS, "merge_function": "sum"}),
    ("ties", {"flavour": "per_tensor", "density": {"a": 0.1, "b": 0.5, "c": 0.9, "d": 1.0}}),
    ("ties", {"flavour": "per_tensor", "rescale": "l1", "weights": WEIGHTS}),
    ("dare_ties", {}),
    ("dare_ties", {"normalize": True, "weights": WEIGHTS, "scaling_factor": 0.3, "seed": 5}),
    ("dare_ties", {"density": {"a": 0.0, "b": 0.5, "c": 0.9, "d": 1.0}, "rescale": "l1"}),
    ("dare_ties", {"strategy": "magnitude", "density": 0.4, "rescale": "none"}),
    ("gradient_matching", {}),
    ("gradient_matching", {"scaling_factor": WEIGHTS, "delta_0": 1e-3}),
    ("gradient_matching", {"anchor": "base", "delta_0": 1.0}),
]


@pytest.fixture(autouse=True)
def built() -> None:
    if not kernels.is_built():
        pytest.skip("there was no C compiler when the package was installed")


def model(seed: int, like: Tensors | None = None) -> Tensors:
    """Weights; with ``like``, weights near to those, whose differences are often equal or 0."""
    generator = torch.Generator().manual_seed(seed)

    def weights(name: str, shape: tuple[int, ...]) -> Tensor:
        if like is None:
            return torch.randn(shape, generator=generator).mul(64).round().div(64)
        return like[name] + torch.randn(shape, generator=generator).mul(8).round().div(256)

    return {str(number): weights(str(number), shape) for number, shape in enumerate(SHAPES)}


def hessian(seed: int) -> Tensors:
    """Curvatures over 16 decades, a tenth of them 0."""
    generator = torch.Generator().manual_seed(seed)

    def diagonal(shape: tuple[int, ...]) -> Tensor:
        decades = 16 * torch.rand(shape, generator=generator) - 8
        return 10**decades * (torch.rand(shape, generator=generator) > 0.1)

    return {str(number): diagonal(shape) for number, shape in enumerate(SHAPES)}


def merged(method: str, options: dict[str, Any]) -> Tensors:
    base = model(0)
    models = {task: model(seed, base) for seed, task in enumerate("abcd", 1)}
    extras: dict[str, Any] = {}
    if method == "gradient_matching":
        hessians = {task: hessian(seed) for seed, task in enumerate("abcd", 1)}
        extras = {"base_hessian": hessian(0), "hessians": hessians}
    return merge_tensors(method=method, options=options, base=base, models=models, extras=extras)


@pytest.mark.parametrize(("method", "options"), CASES)
def test_as_torch(method: str, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    name = "match_gradients" if method == "gradient_matching" else "merge_agreeing"
    function = MagicMock(wraps=getattr(kernels, name))
    monkeypatch.setattr(kernels, name, function)
    fused = merged(method, options)
    assert function.called
    function.reset_mock()
    monkeypatch.setattr(kernels, "can_fuse", lambda *tensors: False)
    plain = merged(method, options)
    assert not function.called
    for name, tensor in plain.items():
        assert torch.equal(fused[name], tensor), name


def test_ranges_of_weights_as_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    base, models = model(0)["5"], {task: model(seed)["5"] for seed, task in enumerate("ab", 1)}
    hessians = {task: hessian(seed)["5"] for seed, task in enumerate("ab", 1)}
    options = gradient_matching.Options(scaling_factor={"a": 0.4, "b": -0.1})
    found = []
    for can_fuse in (kernels.can_fuse, lambda *tensors: False):
        monkeypatch.setattr(kernels, "can_fuse", can_fuse)
        found.append(WeightRange())
        gradient_matching.merge(base, models, hessians["a"], hessians, options, found[-1])
    assert found[0].by_task == found[1].by_task


def test_many_tasks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks become shorter, and beyond the limit torch does it."""
    base = model(0)
    found = []
    for num_tasks in (kernels.MAX_TASKS, kernels.MAX_TASKS + 1):
        models = {f"{number:03}": {"4": model(number + 1, base)["4"]} for number in range(num_tasks)}
        given: dict[str, Any] = {"options": {}, "base": {"4": base["4"]}, "models": models, "extras": {}}
        found.append(merge_tensors(method="ties", **given)["4"])
        with monkeypatch.context() as patch:
            patch.setattr(kernels, "can_fuse", lambda *tensors: False)
            assert torch.equal(found[-1], merge_tensors(method="ties", **given)["4"])


@pytest.mark.parametrize("summary", [ties.Summary({"a": 0.5, "b": 0.5}, 1, {}), None])
def test_overflow_is_not_hidden(summary: ties.Summary | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where differences exceed float32, the result says so, for writers refuse it; it is not a task less."""
    base = torch.tensor([0.0, 3e38, -3e38, 0.0])
    models = {"a": torch.tensor([1.0, -3e38, 3e38, 2.0]), "b": torch.tensor([1.0, 3e38, -3e38, float("nan")])}
    measure = ties.Measure({"a": Cut(0.5), "b": Cut(0.5)}, {"a": 0.0, "b": 1.0}, {})
    options = ties.Options(flavour="global" if summary else "per_tensor")
    fused = ties.merge(
        base, models, options, summary, None if summary else measure, Parameter("w", (4,), size=4)
    )
    monkeypatch.setattr(kernels, "can_fuse", lambda *tensors: False)
    plain = ties.merge(
        base, models, options, summary, None if summary else measure, Parameter("w", (4,), size=4)
    )
    assert not plain.isfinite().all()
    torch.testing.assert_close(fused, plain, rtol=0, atol=0, equal_nan=True)


def test_what_can_be_fused() -> None:
    tensor = torch.ones(4, 6)
    assert kernels.can_fuse(tensor[:2], tensor[1:3])
    assert not kernels.can_fuse(tensor, tensor.double())
    assert not kernels.can_fuse(tensor, tensor[1:3]), "it would be read beyond its end"
    assert not kernels.can_fuse(tensor), "there are no models"
    assert not kernels.can_fuse(tensor.T, tensor.T)
    assert not kernels.can_fuse(tensor.to("meta"), tensor.to("meta"))
