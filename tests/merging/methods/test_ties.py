"""TIES against definitions with a sort, written out for a model of several parameters."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from merging.errors import OptionError
from merging.merge.streaming import merge_tensors
from torch import Tensor
from torch.testing import assert_close

NEUTRAL = {"density": 1.0}

MakeInputs = Callable[..., dict[str, Any]]
Run = Callable[..., Tensor]
Model = dict[str, Tensor]


def make_model(seed: int) -> Model:
    generator = torch.Generator().manual_seed(seed)
    shapes = {"a": (30, 7), "b": (11,), "c": (3, 5, 2)}
    return {name: torch.randn(shape, generator=generator).double() for name, shape in shapes.items()}


BASE = make_model(0)
MODELS = {task: make_model(number) for number, task in enumerate("xyz", start=1)}


def merge(models: dict[str, Model] = MODELS, base: Model = BASE, **options: Any) -> Model:
    return merge_tensors(method="ties", options=options, base=base, models=models, extras={})


def flat(model: Model) -> Tensor:
    return torch.cat([model[name].reshape(-1) for name in sorted(model)])


def elected_merge(trimmed: Tensor, weights: Tensor, merge_function: str, balanced: float) -> Tensor:
    """``trimmed``: (tasks, elements)."""
    values = trimmed * weights[:, None]
    sign = values.sum(0).sign()
    sign[sign == 0] = balanced
    agrees = values.sign() == sign
    total = (values * agrees).sum(0)
    if merge_function == "max":
        return (values * agrees).abs().max(0).values * sign
    if merge_function == "mean":
        divisor = (weights[:, None] * agrees).sum(0)
        return total / torch.where(divisor == 0, 1.0, divisor)
    return total


@pytest.mark.parametrize("merge_function", ["mean", "sum", "max"])
@pytest.mark.parametrize("density", [0.03, 0.2, 0.5, 1.0])
def test_global(density: float, merge_function: str) -> None:
    vectors = torch.stack([flat(model) - flat(BASE) for model in MODELS.values()])
    size = vectors.shape[1]
    trimmed = vectors.clone()
    if density < 1:
        threshold = vectors.abs().sort(dim=1).values[:, size - int(size * density) - 1]
        trimmed[vectors.abs() < threshold[:, None]] = 0
    expected = flat(BASE) + 0.7 * elected_merge(trimmed, torch.ones(3), merge_function, 1.0)
    merged = merge(density=density, merge_function=merge_function, scaling_factor=0.7)
    assert_close(flat(merged), expected)


@pytest.mark.parametrize("merge_function", ["mean", "sum"])
@pytest.mark.parametrize("rescale", ["none", "l1"])
@pytest.mark.parametrize("density", [0.1, 0.55, 1.0])
def test_per_tensor(density: float, rescale: str, merge_function: str) -> None:
    weights = {"x": 0.5, "y": 1.5, "z": -0.25}
    merged = merge(
        density=density,
        flavour="per_tensor",
        weights=weights,
        merge_function=merge_function,
        rescale=rescale,
    )
    for name, base in BASE.items():
        vectors = torch.stack([(model[name] - base).reshape(-1) for model in MODELS.values()])
        order = vectors.abs().argsort(dim=1, descending=True)
        kept = torch.zeros_like(vectors)
        kept.scatter_(1, order[:, : max(int(density * vectors.shape[1]), 1)], 1.0)
        trimmed = vectors * kept
        if rescale == "l1":
            trimmed *= vectors.abs().sum(1, keepdim=True) / trimmed.abs().sum(1, keepdim=True)
        delta = elected_merge(trimmed, torch.tensor(list(weights.values())).double(), merge_function, 1.0)
        assert_close(merged[name], base + delta.reshape(base.shape))


def test_density_by_task() -> None:
    only_y = merge(models={"y": MODELS["y"]}, density=0.3)
    base_like = dict(BASE)
    merged = merge(models={"x": base_like, "y": MODELS["y"]}, density={"x": 1.0, "y": 0.3})
    assert_close(merged, only_y)


def single(base: list[float], *models: list[float], **options: Any) -> list[float]:
    """Merge models of one parameter; with the base at 0 these are the task vectors."""
    merged = merge(
        models={str(number): {"w": torch.tensor(model)} for number, model in enumerate(models)},
        base={"w": torch.tensor(base)},
        **options,
    )
    found: list[float] = merged["w"].tolist()
    return found


def test_a_sum_of_zero_takes_the_sign_of_the_majority() -> None:
    zeros = [0.0] * 4
    one, other = [2.0, 1.0, 1.0, 1.0], [-2.0, 1.0, 1.0, -3.0]
    assert single(zeros, one, other, density=1.0, merge_function="sum") == [2.0, 2.0, 2.0, -3.0]
    negative, opposite = [-value for value in one], [-value for value in other]
    assert single(zeros, negative, opposite, density=1.0, merge_function="sum") == [-2.0, -2.0, -2.0, 3.0]
    balanced = single([0.0] * 3, [2.0, 1.0, -1.0], [-2.0, 0.0, 0.0], density=1.0, merge_function="sum")
    assert balanced == [-2.0, 1.0, -1.0]
    per_tensor = {"density": 1.0, "merge_function": "sum", "flavour": "per_tensor"}
    assert single(zeros, negative, opposite, **per_tensor) == [2.0, -2.0, -2.0, 3.0]


def test_election_by_count() -> None:
    models = [3.0, 1.0], [-1.0, 1.0], [-1.0, -4.0]
    assert single([0.0, 0.0], *models, density=1.0) == [3.0, -4.0]
    assert single([0.0, 0.0], *models, density=1.0, election="count") == [-1.0, 1.0]


@pytest.mark.parametrize("flavour", ["global", "per_tensor"])
def test_election_by_squares_relative_to_the_norm(flavour: str) -> None:
    """Squares over squared norms, about: (1, 0) of the first, (0, 1/2), (0, 1/2) of the others."""
    models = [10.0, 1.0, 0.1], [-0.1, -3.0, 3.0], [-0.1, -3.0, -3.0]
    options = {"density": 1.0, "flavour": flavour, "merge_function": "sum"}
    first, second, _ = single([0.0] * 3, *models, election="normmass", **options)
    assert (first, second) == (10.0, -6.0)
    assert single([0.0] * 3, *models, election="normfrac", **options)[:2] == [10.0, -6.0]
    # Tasks: squares over squared norms of the first element: 0.5, 0.4, 0.4 with signs +, -, -.
    models = [1.0, 1.0], [-2.0, 6.0**0.5], [-4.0, 24.0**0.5]
    assert single([0.0] * 2, *models, election="normmass", **options)[0] == -6.0
    assert single([0.0] * 2, *models, election="normfrac", **options)[0] == 1.0


def test_ties_in_magnitude() -> None:
    """All of them in the whole model, exactly as many as asked for in a parameter."""
    model = [1.0, -1.0, 1.0, 0.5, 1.0]
    assert single([0.0] * 5, model, density=0.3) == [1.0, -1.0, 1.0, 0.0, 1.0]
    assert single([0.0] * 5, model, density=0.4, flavour="per_tensor") == [1.0, -1.0, 0.0, 0.0, 0.0]


def test_a_single_element_is_kept() -> None:
    """Of a parameter with fewer than 1/density elements mergekit refuses to keep none."""
    assert single([0.0, 0.0], [1.0, 2.0], density=0.1, flavour="per_tensor") == [0.0, 2.0]
    assert single([0.0], [1.0], density=0.1) == [1.0]


def test_lambda_zero_is_the_base() -> None:
    assert_close(merge(scaling_factor=0.0), BASE)


def test_density_that_differs_between_parameters() -> None:
    density = [{"filter": "a", "value": 0.5}, {"value": 1.0}]
    with pytest.raises(OptionError, match="density must be the same for all parameters"):
        merge(density=density)
    merged = merge(density=density, flavour="per_tensor")
    assert_close(merged["a"], merge(density=0.5, flavour="per_tensor")["a"])
    assert_close(merged["b"], merge(density=1.0)["b"])


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"density": 20.0}, "ties: density must be > 0 and <= 1, got 20.0. It is a fraction"),
        ({"density": {"x": 0.5, "y": 0.0, "z": 1.0}}, "ties: density must be > 0 and <= 1, got 0.0"),
        ({"weights": float("nan")}, "ties: weights must be finite"),
        ({"scaling_factor": float("inf")}, "ties: scaling_factor must be finite"),
        ({"rescale": "l1"}, "ties: rescale must be 'none' for flavour 'global'"),
        ({"weights": {"x": 1.0, "y": 1.0}}, "no value for task 'z'"),
    ],
)
def test_bad_options(options: dict[str, Any], text: str) -> None:
    with pytest.raises(OptionError, match=text):
        merge(**options)
