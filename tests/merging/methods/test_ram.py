from collections.abc import Callable
from typing import Any

import pytest
import torch
from merging import methods
from merging.errors import OptionError
from torch import Tensor
from torch.testing import assert_close

MakeInputs = Callable[..., dict[str, Any]]
Run = Callable[..., Tensor]


def test_shared_changes_are_averaged_and_unique_ones_added(run: Run) -> None:
    base = torch.tensor([1.0, 1.0, 1.0, 1.0])
    models = {
        "a": base + torch.tensor([0.0, 0.3, 0.3, 0.3]),
        "b": base + torch.tensor([0.0, 0.0, -0.5, 0.6]),
        "c": base + torch.tensor([0.0, 0.0, 0.0, 0.9]),
    }
    merged = run("ram", {"base": base, "models": models})
    assert_close(merged, base + torch.tensor([0.0, 0.3, -0.1, 0.6]))


def test_disjoint_changes_all_arrive(make_inputs: MakeInputs, run: Run) -> None:
    inputs = make_inputs("ram")
    deltas = dict(zip("abc", inputs["models"].values(), strict=True))
    for number, delta in enumerate(deltas.values()):
        delta[[row for row in range(len(delta)) if row % 3 != number]] = 0
    models = {task: inputs["base"] + delta for task, delta in deltas.items()}
    merged = run("ram", {"base": inputs["base"], "models": models})
    assert_close(merged, inputs["base"] + sum(deltas.values()))


def test_epsilon_is_no_change(run: Run) -> None:
    models = {"a": torch.tensor([0.25, 0.5]), "b": torch.tensor([1.0, 1.0])}
    merged = run("ram", {"base": torch.zeros(2), "models": models}, epsilon=0.25)
    assert merged.tolist() == [1.0, 0.75]


def test_bad_options() -> None:
    with pytest.raises(OptionError, match=r"ram: epsilon must be finite and >= 0, got -1.0"):
        methods.load("ram").Options(epsilon=-1.0)
