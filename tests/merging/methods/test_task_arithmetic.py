from collections.abc import Callable
from typing import Any

import pytest
from merging.errors import OptionError
from torch import Tensor
from torch.testing import assert_close

MakeInputs = Callable[..., dict[str, Any]]
Run = Callable[..., Tensor]


def test_one_factor_for_all_tasks(make_inputs: MakeInputs, run: Run) -> None:
    inputs = make_inputs("task_arithmetic")
    base, (a, b, c) = inputs["base"], inputs["models"].values()
    expected = base + 0.3 * ((a - base) + (b - base) + (c - base))
    assert_close(run("task_arithmetic", inputs, scaling_factor=0.3), expected)


def test_one_factor_each_and_removal(make_inputs: MakeInputs, run: Run) -> None:
    inputs = make_inputs("task_arithmetic")
    base, (a, b, _) = inputs["base"], inputs["models"].values()
    merged = run("task_arithmetic", inputs, scaling_factor={"c": 0.0, "a": 1.0, "b": -0.5})
    assert_close(merged, base + (a - base) - 0.5 * (b - base))


def test_zero_is_the_base(make_inputs: MakeInputs, run: Run) -> None:
    inputs = make_inputs("task_arithmetic")
    assert_close(run("task_arithmetic", inputs, scaling_factor=0.0), inputs["base"])


def test_a_share_for_each_is_the_average(make_inputs: MakeInputs, run: Run) -> None:
    inputs = make_inputs("task_arithmetic")
    average = run("average", {"models": inputs["models"]})
    assert_close(run("task_arithmetic", inputs, scaling_factor=1 / 3), average)


def test_unknown_task(make_inputs: MakeInputs, run: Run) -> None:
    with pytest.raises(OptionError, match="unknown task 'x'"):
        run("task_arithmetic", make_inputs("task_arithmetic"), scaling_factor={"x": 1.0})
