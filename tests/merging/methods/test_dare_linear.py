"""DARE: which elements are dropped, what the rest becomes; dare_ties shares it."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from merging.errors import OptionError
from merging.merge.streaming import merge_tensors
from torch import Tensor
from torch.testing import assert_close

NEUTRAL = {"density": 1.0}
EXCEPTIONS = {
    "test_names_of_tasks_do_not_matter": "what is drawn for a task depends on its name",
    "test_tiny_and_huge_curvature": "takes no curvature; what is kept is multiplied by 10",
}

MakeInputs = Callable[..., dict[str, Any]]
Run = Callable[..., Tensor]


def vector(*, size: int = 2000, seed: int = 0, task: str = "a", **options: Any) -> tuple[Tensor, Tensor]:
    """A task vector, and what a merge with the base 0 makes of it."""
    model = torch.randn(size, generator=torch.Generator().manual_seed(9)).double()
    merged = merge_tensors(
        method="dare_linear",
        options={"seed": seed, **options},
        base={"w": torch.zeros(size, dtype=torch.float64)},
        models={task: {"w": model}},
        extras={},
    )
    return model, merged["w"]


def test_kept_elements_are_divided_by_the_density() -> None:
    model, merged = vector(density=0.3)
    kept = merged != 0
    assert abs(float(kept.double().mean()) - 0.3) < 0.04
    assert_close(merged[kept], model[kept] / 0.3)


def test_norm_stays_with_l1() -> None:
    model, merged = vector(density=0.3, rescale="l1")
    kept = merged != 0
    assert_close(merged.abs().sum(), model.abs().sum())
    assert_close(merged[kept], model[kept] * (model.abs().sum() / model[kept].abs().sum()))


def test_nothing_is_rescaled_with_none() -> None:
    model, merged = vector(density=0.3, rescale="none")
    assert_close(merged[merged != 0], model[merged != 0])


def test_mean_over_seeds_is_the_task_vector() -> None:
    draws = [vector(size=200, seed=seed, density=0.5) for seed in range(400)]
    mean = torch.stack([merged for _, merged in draws]).mean(0)
    model = draws[0][0]
    assert ((mean - model).abs() < 5 * model.abs() / 400**0.5).all()


@pytest.mark.parametrize("rescale", ["inverse_keep", "l1", "none"])
def test_the_base_is_left_if_everything_is_dropped(rescale: str) -> None:
    assert (vector(density=0.0, rescale=rescale)[1] == 0).all()


def test_seed_and_task_choose_the_elements() -> None:
    first = vector(density=0.5)[1]
    assert torch.equal(vector(density=0.5)[1], first)
    assert not torch.equal(vector(density=0.5, seed=1)[1], first)
    assert not torch.equal(vector(density=0.5, task="b")[1], first)


def test_magnitude_drops_the_smallest() -> None:
    model, merged = vector(size=10, density=0.9, strategy="magnitude", rescale="none")
    smallest = model.abs().argmin()
    assert merged[smallest] == 0  # int(10 * (1 - 0.9)) is 0 with floats
    assert int((merged != 0).sum()) == 9
    model, merged = vector(density=0.25, strategy="magnitude")
    order = model.abs().argsort(descending=True)
    assert_close(merged[order[:500]], model[order[:500]] / 0.25)
    assert (merged[order[500:]] == 0).all()


def test_drop_from_the_model(make_inputs: MakeInputs, run: Run) -> None:
    inputs = make_inputs("dare_linear", tasks=("a",), shape=(40, 50))
    base, model = inputs["base"], inputs["models"]["a"]
    merged = run("dare_linear", inputs, density=0.5, drop_from="model")
    kept = (merged - 2 * model).abs() < 1e-9
    assert abs(float(kept.double().mean()) - 0.5) < 0.05
    assert_close(merged[~kept], torch.zeros_like(merged[~kept]))
    scaled = run("dare_linear", inputs, density=0.5, drop_from="model", rescale="l1", scaling_factor=0.5)
    masked = model * kept
    masked *= model.abs().sum() / masked.abs().sum()
    assert_close(scaled, base + 0.5 * (masked - base))


def test_density_1_is_task_arithmetic(make_inputs: MakeInputs, run: Run) -> None:
    inputs = make_inputs("dare_linear")
    weights = {"a": 1.0, "b": 0.25, "c": -0.5}
    merged = run("dare_linear", inputs, density=1.0, weights=weights, scaling_factor=0.5)
    factors = {task: 0.5 * weight for task, weight in weights.items()}
    assert_close(merged, run("task_arithmetic", inputs, scaling_factor=factors))
    normalized = run("dare_linear", inputs, density=1.0, weights=weights, normalize=True)
    factors = {task: weight / 0.75 for task, weight in weights.items()}
    assert_close(normalized, run("task_arithmetic", inputs, scaling_factor=factors))


def test_weights_that_sum_to_zero_are_not_normalized(make_inputs: MakeInputs, run: Run) -> None:
    inputs = make_inputs("dare_linear", tasks=("a", "b"))
    weights = {"a": 1.0, "b": -1.0}
    merged = run("dare_linear", inputs, density=1.0, weights=weights, normalize=True)
    assert_close(merged, run("task_arithmetic", inputs, scaling_factor=weights))


def test_density_by_task_and_by_parameter(make_inputs: MakeInputs, run: Run) -> None:
    inputs = make_inputs("dare_linear", tasks=("a", "b"))
    merged = run("dare_linear", inputs, density={"a": 0.0, "b": 1.0})
    assert_close(merged, inputs["models"]["b"])
    density = [{"filter": "w", "value": 1.0}, {"value": 0.0}]
    assert_close(run("dare_linear", inputs, density=density), run("dare_linear", inputs, density=1.0))


@pytest.mark.parametrize("method", ["dare_linear", "dare_ties"])
@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"density": 1.5}, "density must be in 0..1, got 1.5. It is a fraction"),
        ({"density": {"a": 0.5, "b": -0.1}}, "density must be in 0..1, got -0.1"),
        ({"seed": -1}, "seed must be an int in"),
        ({"weights": float("nan")}, "weights must be finite"),
        ({"scaling_factor": float("inf")}, "scaling_factor must be finite"),
    ],
)
def test_bad_options(
    method: str, options: dict[str, Any], text: str, make_inputs: MakeInputs, run: Run
) -> None:
    with pytest.raises(OptionError, match=f"{method}: {text}"):
        run(method, make_inputs(method, tasks=("a", "b")), **options)
