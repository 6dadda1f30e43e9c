"""What TIES leaves of task vectors, multiplied by a factor of each task's own."""

from typing import Any

import pytest
import torch
from merging.errors import OptionError
from merging.merge.streaming import merge_tensors
from torch import Tensor

NEUTRAL = {"density": 1.0}

BASE = {"a.weight": torch.zeros(6), "b.weight": torch.zeros(4)}
MODELS = {
    "one": {"a.weight": torch.tensor([5.0, -1, 2, 0, 0.5, -4]), "b.weight": torch.tensor([3.0, 0.1, -2, 0])},
    "two": {"a.weight": torch.tensor([-6.0, -3, 1, 2, 0.2, -1]), "b.weight": torch.tensor([4.0, 0.3, 2, 5])},
}


def merge(method: str = "task_arithmetic_ties", **options: Any) -> dict[str, Tensor]:
    return merge_tensors(method=method, options=options, base=BASE, models=MODELS, extras={})


def test_what_disagrees_with_the_sum_is_dropped_and_factors_come_after() -> None:
    # Density 0.5 of 10 elements keeps 6: |x| >= 1 of "one", >= 2 of "two" (where 2 occurs twice).
    merged = merge(density=0.5, scaling_factor={"one": 1.0, "two": 10.0})
    assert merged["a.weight"].tolist() == [-60.0, -1 - 30, 2, 20, 0, -4]
    assert merged["b.weight"].tolist() == [43.0, 0, 20, 50]  # -2 + 2: most elected signs are positive


def test_one_factor_for_all_is_ties_with_sums() -> None:
    for density in (0.3, 0.7, 1.0):
        ours = merge(density=density, scaling_factor=0.4)
        ties = merge("ties", density=density, scaling_factor=0.4, merge_function="sum")
        for name in BASE:
            torch.testing.assert_close(ours[name], ties[name])


def test_with_vectors_that_agree_it_is_task_arithmetic() -> None:
    models = {task: {name: its.abs() for name, its in tensors.items()} for task, tensors in MODELS.items()}
    options = {"scaling_factor": {"one": 0.3, "two": 0.6}}
    arguments: dict[str, Any] = {"base": BASE, "models": models, "extras": {}}
    ours = merge_tensors(method="task_arithmetic_ties", options={"density": 1.0, **options}, **arguments)
    theirs = merge_tensors(method="task_arithmetic", options=options, **arguments)
    for name in BASE:
        torch.testing.assert_close(ours[name], theirs[name])


def test_factors_may_differ_by_tensor() -> None:
    factors = [{"filter": "a.*", "value": {"one": 0.0, "two": 0.0}}, {"value": {"one": 1.0, "two": 1.0}}]
    merged = merge(density=1.0, scaling_factor=factors)
    assert not merged["a.weight"].any()
    assert merged["b.weight"][0] == 7


def test_a_density_is_a_fraction() -> None:
    with pytest.raises(OptionError, match="task_arithmetic_ties: density must be > 0 and <= 1, got 20"):
        merge(density=20.0)
