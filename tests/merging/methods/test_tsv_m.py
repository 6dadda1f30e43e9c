from collections.abc import Callable
from typing import Any

import pytest
import torch
from merging.errors import OptionError
from merging.methods import tsv_m
from torch import Tensor
from torch.testing import assert_close

MakeInputs = Callable[..., dict[str, Any]]
Run = Callable[..., Tensor]


def polar(matrix: Tensor) -> Tensor:
    u, _, v = torch.linalg.svd(matrix, full_matrices=False)
    product: Tensor = u @ v
    return product


@pytest.mark.parametrize(("shape", "rank"), [((7, 9), 2), ((9, 6), 2), ((3, 3), 1)])
def test_first_directions_are_made_orthogonal(
    make_inputs: MakeInputs, run: Run, shape: tuple[int, int], rank: int
) -> None:
    inputs = make_inputs("tsv_m", shape=shape)
    parts = [
        torch.linalg.svd(model - inputs["base"], full_matrices=False) for model in inputs["models"].values()
    ]
    u = polar(torch.cat([its.U[:, :rank] for its in parts], 1))
    v = polar(torch.cat([its.Vh[:rank] for its in parts], 0))
    s = torch.cat([its.S[:rank] for its in parts])
    assert_close(run("tsv_m", inputs, scaling_factor=1.5), inputs["base"] + 1.5 * u @ s.diag() @ v)


def test_orthogonal_tasks_are_added(run: Run) -> None:
    """Each has its rows and columns, and all of its rank is kept."""
    base = torch.ones(4, 6)
    models = {"a": base.clone(), "b": base.clone()}
    models["a"][:2, :3] += torch.tensor([[1.0, 2.0, 3.0], [0.0, 1.0, 0.0]])
    models["b"][2:, 3:] -= torch.tensor([[1.0, 0.0, 0.5], [2.0, 1.0, 0.0]])
    merged = run("tsv_m", {"base": base, "models": models})
    assert_close(merged, models["a"] + models["b"] - base)


def test_tasks_that_share_their_directions(run: Run) -> None:
    """Nothing tells them apart, and no direction counts twice: together they are one of them."""
    base = torch.zeros(4, 4, dtype=torch.float64)
    vector = torch.diag(torch.tensor([4.0, 3.0, 0.0, 0.0], dtype=torch.float64))
    assert_close(run("tsv_m", {"base": base, "models": {"a": vector, "b": vector}}), vector)


def test_vectors_and_matrices_too_small_for_all_are_averaged(make_inputs: MakeInputs, run: Run) -> None:
    for shape in ((5,), (2, 5)):
        inputs = make_inputs("tsv_m", shape=shape)
        assert_close(run("tsv_m", inputs), sum(inputs["models"].values()) / 3)
    assert_close(run("tsv_m", inputs, parity=True), inputs["base"])


def test_convolutions(make_inputs: MakeInputs, run: Run) -> None:
    inputs = make_inputs("tsv_m", shape=(4, 2, 3))
    flat = {"base": inputs["base"].flatten(1)}
    flat["models"] = {task: model.flatten(1) for task, model in inputs["models"].items()}
    assert_close(run("tsv_m", inputs).flatten(1), run("tsv_m", flat))
    assert_close(run("tsv_m", inputs, parity=True), sum(inputs["models"].values()) / 3)


def test_a_factor_must_be_finite() -> None:
    with pytest.raises(OptionError, match="tsv_m: scaling_factor must be finite, got inf"):
        tsv_m.Options(scaling_factor=float("inf"))
