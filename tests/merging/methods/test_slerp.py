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

NEUTRAL = {"t": 1.0}


def vectors(*values: list[float]) -> dict[str, Any]:
    base, model = (torch.tensor(value, dtype=torch.float64) for value in values)
    return {"base": base, "models": {"a": model}}


def test_formula(make_inputs: MakeInputs, run: Run) -> None:
    inputs = make_inputs("slerp")
    base, model = inputs["base"], inputs["models"]["a"]
    angle = torch.arccos((base * model).sum() / base.norm() / model.norm())
    expected = ((0.7 * angle).sin() * base + (0.3 * angle).sin() * model) / angle.sin()
    assert_close(run("slerp", inputs, t=0.3), expected)


def test_ends_are_exact(make_inputs: MakeInputs, run: Run) -> None:
    inputs = make_inputs("slerp", dtype=torch.float32)
    assert torch.equal(run("slerp", inputs, t=0.0), inputs["base"])
    assert_close(run("slerp", inputs, t=1.0), inputs["models"]["a"])


def test_halfway_on_a_quarter_of_a_circle(run: Run) -> None:
    merged = run("slerp", vectors([2.0, 0.0], [0.0, 2.0]))
    assert_close(merged, torch.full((2,), math.sqrt(2.0), dtype=torch.float64))


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_colinear_vectors_are_interpolated_linearly(sign: float, run: Run) -> None:
    merged = run("slerp", vectors([1.0, 2.0], [3.0 * sign, 6.0 * sign]), t=0.25)
    assert_close(merged, torch.tensor([1.0, 2.0], dtype=torch.float64) * (0.75 + 0.75 * sign))


def test_threshold_decides_what_is_colinear(run: Run) -> None:
    inputs = vectors([1.0, 0.0], [1.0, 1.0])
    assert_close(run("slerp", inputs, dot_threshold=0.7), torch.tensor([1.0, 0.5], dtype=torch.float64))
    assert run("slerp", inputs, dot_threshold=0.71)[1] > 0.5


def test_zero_counts_as_orthogonal(run: Run) -> None:
    merged = run("slerp", vectors([0.0, 0.0], [3.0, 4.0]), t=1 / 3)
    assert_close(merged, torch.tensor([1.5, 2.0], dtype=torch.float64))


@pytest.mark.parametrize("size", [1e-30, 1e30])
def test_size_of_the_numbers_does_not_matter(size: float, run: Run) -> None:
    """Their squares leave the range of float32."""
    base = torch.tensor([1.0, 0.0]) * size
    model = torch.tensor([0.0, 1.0]) * size
    merged = run("slerp", {"base": base, "models": {"a": model}})
    assert_close(merged / size, torch.full((2,), math.sqrt(0.5)))


def test_angle_is_of_the_whole_parameter(run: Run) -> None:
    """Over several pieces, in float32, as exactly as in float64."""
    generator = torch.Generator().manual_seed(0)
    base = torch.randn(300_000, generator=generator)
    model = base + 0.5 * torch.randn(300_000, generator=generator)
    exact = run("slerp", {"base": base.double(), "models": {"a": model.double()}}, t=0.4)
    assert_close(run("slerp", {"base": base, "models": {"a": model}}, t=0.4), exact.float())


def test_bad_options() -> None:
    options = methods.load("slerp").Options
    with pytest.raises(OptionError, match="slerp: t must be finite, got nan"):
        options(t=math.nan)
    with pytest.raises(OptionError, match=r"slerp: dot_threshold must be in 0..1, got 1.5"):
        options(dot_threshold=1.5)
    with pytest.raises(OptionError, match="slerp"):
        methods.check_call("slerp", {}, {}, tasks=["a", "b"])
