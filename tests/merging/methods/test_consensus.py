from collections.abc import Callable
from typing import Any

import pytest
import torch
from merging.errors import OptionError
from merging.methods import consensus
from torch import Tensor
from torch.testing import assert_close

MakeInputs = Callable[..., dict[str, Any]]
Run = Callable[..., Tensor]

NEUTRAL = {"min_tasks": 1}


@pytest.mark.parametrize("min_tasks", [1, 2, 3])
def test_what_enough_tasks_need_is_kept(make_inputs: MakeInputs, run: Run, min_tasks: int) -> None:
    inputs = make_inputs("consensus")
    tau = torch.stack([model - inputs["base"] for model in inputs["models"].values()])
    multi_task = 0.5 * tau.sum(0)
    threshold = {"a": 1.5, "b": 1.0, "c": 2.0}
    served = tau.abs() > torch.tensor([1.5, 1.0, 2.0]).reshape(3, 1, 1) * (multi_task - tau).abs()
    kept = served.sum(0) >= min_tasks
    assert 0 < kept.sum() < kept.numel()
    merged = run("consensus", inputs, min_tasks=min_tasks, threshold=threshold, scaling_factor=0.5)
    assert_close(merged, inputs["base"] + kept * multi_task)


def test_without_a_minimum_it_is_task_arithmetic(make_inputs: MakeInputs, run: Run) -> None:
    inputs = make_inputs("consensus")
    assert_close(run("consensus", inputs, min_tasks=0), run("task_arithmetic", inputs))


def test_selfish_elements_are_left_out(run: Run) -> None:
    base = torch.zeros(3)
    models = {"a": torch.tensor([1.0, 1.0, 0.0]), "b": torch.tensor([1.0, 0.0, 1.0])}
    assert run("consensus", {"base": base, "models": models}).tolist() == [2.0, 0.0, 0.0]


def test_more_tasks_than_there_are(make_inputs: MakeInputs, run: Run) -> None:
    with pytest.raises(OptionError, match="min_tasks must be at most the number of models, 3, got 4"):
        run("consensus", make_inputs("consensus"), min_tasks=4)


def test_a_minimum_below_zero() -> None:
    with pytest.raises(OptionError, match="consensus: min_tasks must be >= 0, got -1"):
        consensus.Options(min_tasks=-1)
