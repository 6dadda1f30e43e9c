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


def arc(one: Tensor, two: Tensor, t: float) -> Tensor:
    angle = torch.arccos((one * two).sum() / one.norm() / two.norm())
    return (((1 - t) * angle).sin() * one + (t * angle).sin() * two) / angle.sin()


WEIGHTS = {"a": 3.0, "b": 1.0}  # t = 1/4


def test_one_angle(make_inputs: MakeInputs, run: Run) -> None:
    inputs = make_inputs("nuslerp")
    a, b = inputs["models"]["a"], inputs["models"]["b"]
    assert_close(run("nuslerp", inputs, weights=WEIGHTS), arc(a, b, 0.25))


def test_an_angle_for_each_row(make_inputs: MakeInputs, run: Run) -> None:
    inputs = make_inputs("nuslerp")
    rows = zip(inputs["models"]["a"], inputs["models"]["b"], strict=True)
    expected = torch.stack([arc(a, b, 0.25) for a, b in rows])
    assert_close(run("nuslerp", inputs, weights=WEIGHTS, axis="last"), expected)


def test_an_angle_for_each_column(make_inputs: MakeInputs, run: Run) -> None:
    inputs = make_inputs("nuslerp")
    columns = zip(inputs["models"]["a"].T, inputs["models"]["b"].T, strict=True)
    expected = torch.stack([arc(a, b, 0.25) for a, b in columns], dim=1)
    assert_close(run("nuslerp", inputs, weights=WEIGHTS, axis="first"), expected)


@pytest.mark.parametrize("axis", ["all", "last", "first"])
def test_slices_of_tensors_of_any_rank(axis: str, make_inputs: MakeInputs, run: Run) -> None:
    for shape in ((), (4,), (1, 1), (2, 3, 4), (0,), (0, 3)):
        inputs = make_inputs("nuslerp", shape=shape)
        merged = run("nuslerp", inputs, weights=WEIGHTS, axis=axis)
        assert merged.shape == shape
        if shape == (4,):
            assert_close(merged, arc(inputs["models"]["a"], inputs["models"]["b"], 0.25))


@pytest.mark.parametrize("axis", ["all", "last", "first"])
def test_columns_and_rows_in_pieces(
    axis: str, make_inputs: MakeInputs, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    inputs = make_inputs("nuslerp", shape=(9, 4))
    whole = run("nuslerp", inputs, axis=axis)
    monkeypatch.setattr("merging.merge.tensor_merge.PIECE", 8)
    assert_close(run("nuslerp", inputs, axis=axis), whole)


def test_relative_to_base(make_inputs: MakeInputs, run: Run) -> None:
    inputs = make_inputs("nuslerp", options={"relative_to_base": True})
    base, a, b = inputs["base"], inputs["models"]["a"], inputs["models"]["b"]
    merged = run("nuslerp", inputs, weights=WEIGHTS, relative_to_base=True)
    assert_close(merged, base + arc(a - base, b - base, 0.25))


def test_base_is_asked_for_only_where_it_matters() -> None:
    methods.check_call("nuslerp", {}, {}, tasks=["a", "b"], has_base=False)
    with pytest.raises(OptionError, match="base"):
        methods.check_call("nuslerp", {"relative_to_base": True}, {}, tasks=["a", "b"], has_base=False)


def test_a_weight_of_zero_leaves_the_other_model(make_inputs: MakeInputs, run: Run) -> None:
    inputs = make_inputs("nuslerp")
    assert_close(run("nuslerp", inputs, weights={"a": 0.0, "b": 2.0}), inputs["models"]["b"])


def test_weights_that_cancel_meet_halfway(make_inputs: MakeInputs, run: Run) -> None:
    inputs = make_inputs("nuslerp")
    merged = run("nuslerp", inputs, weights={"a": 1.0, "b": -1.0})
    assert_close(merged, arc(inputs["models"]["a"], inputs["models"]["b"], 0.5))


@pytest.mark.parametrize("axis", ["all", "last", "first"])
def test_colinear_and_empty_slices_are_finite(axis: str, run: Run) -> None:
    a = torch.tensor([[1.0, 0.0], [2.0, 0.0], [0.0, 0.0]])
    b = torch.tensor([[2.0, 0.0], [-2.0, 0.0], [0.0, 0.0]])
    merged = run("nuslerp", {"models": {"a": a, "b": b}}, axis=axis)
    assert merged.isfinite().all()
    assert not merged[:, 1].any()
    if axis == "last":
        assert merged[0, 0] == 1.5


@pytest.mark.parametrize("axis", ["all", "first"])
def test_opposite_numbers_are_interpolated_linearly(axis: str, run: Run) -> None:
    """sin a is nothing but rounding, which dividing by it would blow up."""
    a = torch.tensor([[0.66895, -0.3, 0.7, 1.1]]) if axis == "first" else torch.tensor([[0.66895]])
    b = -0.1053 * a
    merged = run("nuslerp", {"models": {"a": a, "b": b}}, weights=WEIGHTS, axis=axis)
    assert_close(merged, 0.75 * a + 0.25 * b)
