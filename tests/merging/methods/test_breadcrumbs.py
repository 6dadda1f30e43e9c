"""Which elements Breadcrumbs keeps, and what becomes of them; breadcrumbs_ties shares it."""

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


def single(model: list[float], **options: Any) -> list[float]:
    """What is left of a task vector; the base is 0."""
    merged = merge_tensors(
        method="breadcrumbs",
        options=options,
        base={"w": torch.zeros(len(model))},
        models={"a": {"w": torch.tensor(model)}},
        extras={},
    )
    left: list[float] = merged["w"].tolist()
    return left


MODEL = [5.0, -1.0, 2.0, 10.0, -3.0, 4.0, -9.0, 6.0, 7.0, 8.0]


@pytest.mark.parametrize(
    ("density", "gamma", "kept"),
    [
        (0.5, 0.2, {8, 7, 6, 5, 4}),
        (0.5, 0.0, {10, 9, 8, 7, 6}),
        (0.8, 0.1, {9, 8, 7, 6, 5, 4, 3, 2}),
        (0.8, 0.4, {8, 7, 6, 5, 4, 3, 2, 1}),  # only so many outliers as are left
        (0.5, 0.01, {10, 9, 8, 7, 6}),  # too few elements for an outlier
        (0.05, 0.1, set()),
        (1.0, 0.5, {10, 9, 8, 7, 6, 5, 4, 3, 2, 1}),
    ],
)
def test_what_is_kept(density: float, gamma: float, kept: set[int]) -> None:
    left = single(MODEL, density=density, gamma=gamma)
    assert left == [value if abs(value) in kept else 0.0 for value in MODEL]


def test_parity_drops_what_has_no_outliers() -> None:
    assert single(MODEL, density=0.5, gamma=0.01, parity=True) == [0.0] * len(MODEL)
    assert single(MODEL, density=0.5, gamma=0.2, parity=True) == single(MODEL, density=0.5, gamma=0.2)


def test_equal_magnitudes() -> None:
    """Exactly as many as asked for; earlier ones count as larger."""
    assert single([1.0, -1.0, 1.0, 1.0], density=0.5, gamma=0.25) == [0.0, -1.0, 1.0, 0.0]


def test_l1_rescales() -> None:
    left = single(MODEL, density=0.5, gamma=0.2, rescale="l1")
    assert_close(sum(map(abs, left)), 55.0, rtol=1e-6, atol=0.0)
    assert_close(left[0], 5.0 * 55 / 30, rtol=1e-6, atol=0.0)


def test_density_1_is_task_arithmetic(make_inputs: MakeInputs, run: Run) -> None:
    inputs = make_inputs("breadcrumbs")
    weights = {"a": 1.0, "b": 0.25, "c": -0.5}
    merged = run("breadcrumbs", inputs, density=1.0, weights=weights, scaling_factor=0.5)
    factors = {task: 0.5 * weight for task, weight in weights.items()}
    assert_close(merged, run("task_arithmetic", inputs, scaling_factor=factors))


def test_options_by_task(make_inputs: MakeInputs, run: Run) -> None:
    inputs = make_inputs("breadcrumbs", tasks=("a", "b"))
    options = {"density": {"a": 0.5, "b": 1.0}, "gamma": {"a": 0.2, "b": 0.0}}
    merged = run("breadcrumbs", inputs, **options)
    one = {"base": inputs["base"], "models": {"a": inputs["models"]["a"]}}
    alone = run("breadcrumbs", one, density=0.5, gamma=0.2)
    assert_close(merged, alone + inputs["models"]["b"] - inputs["base"])


@pytest.mark.parametrize("method", ["breadcrumbs", "breadcrumbs_ties"])
@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"density": 0.0}, "density must be > 0 and <= 1, got 0.0"),
        ({"gamma": 1.0}, "gamma must be >= 0 and < 1, got 1.0"),
        ({"gamma": {"a": -0.5, "b": 0.1}}, "gamma must be >= 0 and < 1, got -0.5"),
        ({"weights": float("nan")}, "weights must be finite"),
    ],
)
def test_bad_options(
    method: str, options: dict[str, Any], text: str, make_inputs: MakeInputs, run: Run
) -> None:
    with pytest.raises(OptionError, match=f"{method}: {text}"):
        run(method, make_inputs(method, tasks=("a", "b")), **options)
