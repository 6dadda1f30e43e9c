from collections.abc import Callable
from typing import Any

import pytest
import torch
from merging.errors import OptionError
from merging.methods import iso_c
from torch import Tensor
from torch.testing import assert_close

MakeInputs = Callable[..., dict[str, Any]]
Run = Callable[..., Tensor]

EXCEPTIONS = {"test_one_task_returns_its_model": "the spectrum of its task vector is flattened, too"}


def test_every_direction_of_the_sum_gets_the_mean_strength(make_inputs: MakeInputs, run: Run) -> None:
    inputs = make_inputs("iso_c")
    total = sum(model - inputs["base"] for model in inputs["models"].values())
    u, s, v = torch.linalg.svd(total, full_matrices=False)
    merged = run("iso_c", inputs, scaling_factor=0.7)
    assert_close(merged, inputs["base"] + 0.7 * s.mean() * u @ v)


def test_a_multiple_of_an_orthogonal_matrix_is_itself(run: Run) -> None:
    base = torch.ones(4, 4, dtype=torch.float64)
    rotation = torch.linalg.qr(torch.arange(16.0).reshape(4, 4).double().cos()).Q
    assert_close(run("iso_c", {"base": base, "models": {"a": base + 3 * rotation}}), base + 3 * rotation)


def test_directions_that_no_task_has_stay_zero(run: Run) -> None:
    """A task vector of rank 1, as of an adapter: one of its three singular values is not 0."""
    base = torch.zeros(3, 4)
    vector = torch.tensor([[1.0], [2.0], [2.0]]) @ torch.tensor([[0.0, 3.0, 0.0, 4.0]])
    assert_close(run("iso_c", {"base": base, "models": {"a": vector}}), vector / 3)


def test_vectors_are_averaged(make_inputs: MakeInputs, run: Run) -> None:
    inputs = make_inputs("iso_c", shape=(5,))
    a, b, c = inputs["models"].values()
    assert_close(run("iso_c", inputs), (a + b + c) / 3)


def test_convolutions(make_inputs: MakeInputs, run: Run) -> None:
    inputs = make_inputs("iso_c", shape=(4, 2, 3, 3))
    flat = {"base": inputs["base"].flatten(1)}
    flat["models"] = {task: model.flatten(1) for task, model in inputs["models"].items()}
    assert_close(run("iso_c", inputs).flatten(1), run("iso_c", flat))
    assert_close(run("iso_c", inputs, parity=True), sum(inputs["models"].values()) / 3)


def test_orientation_does_not_matter(make_inputs: MakeInputs, run: Run) -> None:
    inputs = make_inputs("iso_c")
    turned = {"base": inputs["base"].T.contiguous()}
    turned["models"] = {task: model.T.contiguous() for task, model in inputs["models"].items()}
    assert_close(run("iso_c", turned).T, run("iso_c", inputs))


def test_a_factor_must_be_finite() -> None:
    with pytest.raises(OptionError, match="iso_c: scaling_factor must be finite, got nan"):
        iso_c.Options(scaling_factor=float("nan"))
