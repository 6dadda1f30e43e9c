import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from merging import methods
from merging.errors import OptionError
from torch import Tensor

MakeInputs = Callable[..., dict[str, Any]]
Run = Callable[..., Tensor]


def test_the_model_bit_for_bit(make_inputs: MakeInputs, run: Run) -> None:
    inputs = make_inputs("passthrough", dtype=torch.bfloat16)
    assert torch.equal(run("passthrough", inputs), inputs["models"]["a"])


def test_scale(make_inputs: MakeInputs, run: Run) -> None:
    inputs = make_inputs("passthrough")
    assert torch.equal(run("passthrough", inputs, scale=-0.5), -0.5 * inputs["models"]["a"])
    assert not run("passthrough", inputs, scale=0.0).any()


def test_bad_options() -> None:
    with pytest.raises(OptionError, match="passthrough: scale must be finite, got nan"):
        methods.load("passthrough").Options(scale=math.nan)
    with pytest.raises(OptionError, match="passthrough"):
        methods.check_call("passthrough", {}, {}, tasks=["a", "b"])
