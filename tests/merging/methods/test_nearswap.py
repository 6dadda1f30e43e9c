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

NEUTRAL = {"t": 1e3}


def test_published_form(make_inputs: MakeInputs, run: Run) -> None:
    inputs = make_inputs("nearswap")
    base, model = inputs["base"], inputs["models"]["a"]
    weight = (0.5 / (model - base).abs().clamp(min=1e-6)).clamp(0, 1)
    assert_close(run("nearswap", inputs, t=0.5), weight * model + (1 - weight) * base)


def test_near_elements_are_swapped_and_others_move_by_t(run: Run) -> None:
    inputs = {"base": torch.zeros(4), "models": {"a": torch.tensor([0.5, -0.5, 4.0, -9.0])}}
    assert run("nearswap", inputs, t=1.0).tolist() == [0.5, -0.5, 1.0, -1.0]


def test_t_of_zero_is_the_base(make_inputs: MakeInputs, run: Run) -> None:
    inputs = make_inputs("nearswap")
    assert torch.equal(run("nearswap", inputs, t=0.0), inputs["base"])


def test_bad_options() -> None:
    with pytest.raises(OptionError, match=r"nearswap: t must be finite and >= 0, got -1.0"):
        methods.load("nearswap").Options(t=-1.0)
