from collections.abc import Callable
from typing import Any

import pytest
import torch
from merging.errors import OptionError
from merging.methods import tall_masks
from torch import Tensor
from torch.testing import assert_close

MakeInputs = Callable[..., dict[str, Any]]
Run = Callable[..., Tensor]


def vectors(inputs: dict[str, Any]) -> dict[str, Tensor]:
    return {task: model - inputs["base"] for task, model in inputs["models"].items()}


def test_what_a_task_needs_is_kept(make_inputs: MakeInputs, run: Run) -> None:
    inputs = make_inputs("tall_masks")
    tau = vectors(inputs)
    multi_task = 0.4 * (tau["a"] + tau["b"] + tau["c"])
    threshold = {"a": 0.2, "b": 0.5, "c": 0.1}
    merged = run("tall_masks", inputs, task="b", threshold=threshold, scaling_factor=0.4)
    kept = tau["b"].abs() > 0.5 * (multi_task - tau["b"]).abs()
    assert 0 < kept.sum() < kept.numel()
    assert_close(merged, inputs["base"] + kept * multi_task)


def test_without_a_task_no_mask_is_applied(make_inputs: MakeInputs, run: Run) -> None:
    inputs = make_inputs("tall_masks")
    expected = run("task_arithmetic", inputs, scaling_factor=0.3)
    assert_close(run("tall_masks", inputs, scaling_factor=0.3), expected)


def test_one_task_is_its_model(make_inputs: MakeInputs, run: Run) -> None:
    inputs = make_inputs("tall_masks", tasks=("a",))
    assert_close(run("tall_masks", inputs, task="a"), inputs["models"]["a"])


def test_what_nobody_changed_is_not_kept(run: Run) -> None:
    """|0| > 0 is false, also for a threshold of 0."""
    base = torch.ones(2)
    inputs = {"base": base, "models": {"a": torch.tensor([1.0, 2.0]), "b": torch.tensor([1.0, 3.0])}}
    assert run("tall_masks", inputs, task="a", threshold=0.0).tolist() == [1.0, 4.0]


def test_unknown_task(make_inputs: MakeInputs, run: Run) -> None:
    with pytest.raises(OptionError, match="tall_masks: task must be one of a, b, c, got 'z'"):
        run("tall_masks", make_inputs("tall_masks"), task="z")


def test_a_threshold_below_zero() -> None:
    with pytest.raises(OptionError, match=r"tall_masks: threshold must be finite and >= 0, got -0\.1"):
        tall_masks.Options(threshold={"a": 0.2, "b": -0.1})
