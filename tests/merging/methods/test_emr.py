from collections.abc import Callable
from typing import Any

import pytest
import torch
from merging.errors import OptionError
from merging.merge.streaming import merge_tensors
from merging.methods import emr
from torch import Tensor
from torch.testing import assert_close

MakeInputs = Callable[..., dict[str, Any]]
Run = Callable[..., Tensor]

BASE = torch.tensor([1.0, 1.0, 1.0, 1.0, 1.0])
VECTORS = {  # the signs of their sums: +, -, +, 0 (which counts as -), 0 without anybody
    "a": torch.tensor([2.0, -1.0, -1.0, 1.0, 0.0]),
    "b": torch.tensor([3.0, -4.0, 4.0, -1.0, 0.0]),
}
UNIFIED = torch.tensor([3.0, -4.0, 4.0, -1.0, 0.0])
INPUTS = {"base": BASE, "models": {task: BASE + vector for task, vector in VECTORS.items()}}


def test_one_model_for_all(run: Run) -> None:
    assert_close(run("emr", INPUTS), BASE + UNIFIED)


def test_a_model_for_one_task(run: Run) -> None:
    mask = torch.tensor([1.0, 1.0, 0.0, 0.0, 0.0])
    assert_close(run("emr", INPUTS, task="a"), BASE + 5 / 7 * mask * UNIFIED)
    assert_close(run("emr", INPUTS, task="b"), BASE + UNIFIED)


def test_no_agreement_with_another_sign_or_with_zero() -> None:
    vector, unified = torch.tensor([1e-30, -1e-30, 0.0, 1.0, 1.0]), torch.tensor([1e-30, 1.0, 1.0, 0.0, 2.0])
    assert emr.agreement(vector, unified).tolist() == [True, False, False, False, True]


def test_rescalers_are_sums_of_means(make_inputs: MakeInputs) -> None:
    """A small parameter counts as much as a large one; pieces of a parameter belong together."""
    base = {"large": torch.zeros(4), "small": torch.zeros(1)}
    a = {"large": torch.tensor([1.0, 1.0, -1.0, -1.0]), "small": torch.tensor([3.0])}
    b = {"large": torch.tensor([2.0, -3.0, 2.0, -3.0]), "small": torch.tensor([5.0])}
    scale = (1.0 + 3.0) / ((2 + 3) / 4 + 5.0)
    merged = merge_tensors(
        method="emr", options={"task": "a"}, base=base, models={"a": a, "b": b}, extras={}, policy={}
    )
    assert_close(merged["large"], scale * torch.tensor([2.0, 0.0, 0.0, -3.0]))
    assert_close(merged["small"], scale * torch.tensor([5.0]))


def test_one_task_is_its_model_in_both_forms(make_inputs: MakeInputs, run: Run) -> None:
    inputs = make_inputs("emr", tasks=("a",))
    for options in ({}, {"task": "a"}):
        assert_close(run("emr", inputs, **options), inputs["models"]["a"])


def test_a_task_that_has_learnt_nothing(make_inputs: MakeInputs, run: Run) -> None:
    inputs = make_inputs("emr")
    inputs["models"]["b"] = inputs["base"]
    assert_close(run("emr", inputs, task="b"), inputs["base"])


def test_nothing_is_read_for_one_model_for_all() -> None:
    class Unreadable:
        def map(self, function: object) -> None:
            raise AssertionError("read")

    assert emr.summarize(Unreadable(), emr.Options()) == emr.Summary()  # type: ignore[arg-type]


def test_unknown_task(make_inputs: MakeInputs, run: Run) -> None:
    with pytest.raises(OptionError, match="emr: task must be one of a, b, c, got 'z'"):
        run("emr", make_inputs("emr"), task="z")
