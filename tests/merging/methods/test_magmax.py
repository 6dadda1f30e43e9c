from collections.abc import Callable
from typing import Any

import pytest
import torch
from merging.errors import OptionError
from merging.methods import magmax
from torch import Tensor
from torch.testing import assert_close

MakeInputs = Callable[..., dict[str, Any]]
Run = Callable[..., Tensor]

NEUTRAL = {"scaling_factor": 1.0}


def test_the_largest_of_every_element_counts(run: Run) -> None:
    base = torch.tensor([1.0, 1.0, 1.0])
    models = {"a": base + torch.tensor([0.5, -2.0, 0.0]), "b": base + torch.tensor([-1.0, 0.5, 0.25])}
    merged = run("magmax", {"base": base, "models": models}, scaling_factor=2.0)
    assert_close(merged, base + 2 * torch.tensor([-1.0, -2.0, 0.25]))


def test_half_by_default(make_inputs: MakeInputs, run: Run) -> None:
    inputs = make_inputs("magmax", tasks=("a",))
    assert_close(run("magmax", inputs), (inputs["base"] + inputs["models"]["a"]) / 2)


def test_of_equals_the_last_by_name_counts(run: Run) -> None:
    base, up, down = torch.zeros(2), torch.ones(2), -torch.ones(2)
    assert run("magmax", {"base": base, "models": {"b": up, "a": down}}).tolist() == [0.5, 0.5]
    assert run("magmax", {"base": base, "models": {"b": down, "a": up}}).tolist() == [-0.5, -0.5]


def test_a_factor_must_be_finite() -> None:
    with pytest.raises(OptionError, match="magmax: scaling_factor must be finite, got inf"):
        magmax.Options(scaling_factor=float("inf"))
