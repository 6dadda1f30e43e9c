import math
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

NEUTRAL = {"spread": -1e9}


def reference(base: Tensor, model: Tensor, spread: float = 1.5) -> Tensor:
    new, old = model.softmax(-1), base.softmax(-1)
    importance = (model - base).abs() * (new * (new / old).log()).sum(-1, keepdim=True)
    ordered = importance.flatten().sort().values
    lower, median, upper = (ordered[math.floor(q * (len(ordered) - 1))] for q in (0.25, 0.5, 0.75))
    return torch.where(importance >= median + spread * (upper - lower), model, base)


@pytest.mark.parametrize("shape", [(7, 9), (8, 8), (12,), (3, 2, 5)])
@pytest.mark.parametrize("spread", [1.5, 0.0])
def test_formula(shape: tuple[int, ...], spread: float, make_inputs: MakeInputs, run: Run) -> None:
    inputs = make_inputs("arcee_fusion", shape=shape)
    base, model = inputs["base"], inputs["models"]["a"]
    merged = run("arcee_fusion", inputs, spread=spread)
    assert torch.equal(merged, reference(base, model, spread))
    assert int((merged == model).sum()) < merged.numel()


def test_threshold_is_of_the_whole_parameter(
    make_inputs: MakeInputs, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    inputs = make_inputs("arcee_fusion", shape=(11, 6))
    monkeypatch.setattr("merging.merge.tensor_merge.PIECE", 12)
    assert torch.equal(run("arcee_fusion", inputs), reference(inputs["base"], inputs["models"]["a"]))


def test_small_changes_in_float32(run: Run) -> None:
    """KLs of about 1e-7, where a formula in float32 would be noise."""
    generator = torch.Generator().manual_seed(0)
    base = 0.02 * torch.randn(40, 500, generator=generator)
    model = base + 3e-4 * torch.randn(40, 500, generator=generator)
    merged = run("arcee_fusion", {"base": base, "models": {"a": model}})
    assert_close(merged, reference(base.double(), model.double()).float(), rtol=0, atol=0)


def test_a_changed_row_is_taken(run: Run) -> None:
    base = torch.zeros(8, 3)
    model = base.clone()
    model[5] = torch.tensor([1.0, -2.0, 3.0])
    assert torch.equal(run("arcee_fusion", {"base": base, "models": {"a": model}}), model)


def test_bad_options() -> None:
    with pytest.raises(OptionError, match="arcee_fusion: spread must be finite, got inf"):
        methods.load("arcee_fusion").Options(spread=math.inf)
