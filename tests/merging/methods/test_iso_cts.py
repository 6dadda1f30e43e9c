from collections.abc import Callable
from typing import Any

import pytest
import torch
from merging.errors import OptionError
from merging.merge.streaming import merge_tensors
from merging.methods import iso_cts
from torch import Tensor
from torch.testing import assert_close

MakeInputs = Callable[..., dict[str, Any]]
Run = Callable[..., Tensor]

EXCEPTIONS = {"test_one_task_returns_its_model": "the spectrum of its task vector is flattened, too"}


def svd(matrix: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    u, s, v = torch.linalg.svd(matrix, full_matrices=False)
    return u, s, v


@pytest.mark.parametrize(
    ("shape", "fraction", "common", "own"),
    [((6, 9), 0.5, 3, 1), ((9, 6), 0.0, 0, 2), ((8, 8), 0.7, 5, 1), ((5, 7), 0.0, 2, 1), ((6, 6), 0.8, 3, 1)],
)
def test_common_and_own_directions(
    make_inputs: MakeInputs, run: Run, shape: tuple[int, int], fraction: float, common: int, own: int
) -> None:
    inputs = make_inputs("iso_cts", shape=shape)
    tau = [model - inputs["base"] for model in inputs["models"].values()]
    parts = [tuple(svd(sum(tau, torch.zeros(shape))))]
    u, s, v = parts.pop()
    kept = [(u[:, :common], s[:common], v[:common])]
    away = torch.eye(shape[0], dtype=torch.float64) - u[:, :common] @ u[:, :common].T
    for vector in tau:
        u, s, v = svd(away @ vector)
        kept.append((u[:, :own], s[:own], v[:own]))
    p, _, q = svd(torch.cat([its[0] for its in kept], 1))
    r, _, w = svd(torch.cat([its[2] for its in kept], 0))
    strength = torch.cat([its[1] for its in kept]).mean()
    merged = run("iso_cts", inputs, common_space_fraction=fraction, scaling_factor=0.5)
    assert_close(merged, inputs["base"] + 0.5 * strength * (p @ q) @ (r @ w))


def test_all_common_is_iso_c(make_inputs: MakeInputs, run: Run) -> None:
    inputs = make_inputs("iso_cts")
    assert_close(run("iso_cts", inputs, common_space_fraction=1.0), run("iso_c", inputs))


def test_vectors_are_averaged(make_inputs: MakeInputs, run: Run) -> None:
    inputs = make_inputs("iso_cts", shape=(5,))
    a, b, c = inputs["models"].values()
    assert_close(run("iso_cts", inputs), (a + b + c) / 3)


def test_a_transposed_parameter_is_turned(make_inputs: MakeInputs) -> None:
    """What is common is projected away on the side of the outputs, so orientation matters."""
    inputs = make_inputs("iso_cts", shape=(9, 6))

    def run(turned: bool, transposed: bool) -> Tensor:
        def named(tensor: Tensor) -> dict[str, Tensor]:
            return {"w": tensor.T.contiguous() if turned else tensor}

        merged = merge_tensors(
            method="iso_cts",
            options={"common_space_fraction": 0.5},
            base=named(inputs["base"]),
            models={task: named(model) for task, model in inputs["models"].items()},
            extras={},
            transposed=["w"] if transposed else [],
        )["w"]
        return merged.T if turned else merged

    assert_close(run(turned=True, transposed=True), run(turned=False, transposed=False))
    assert not torch.allclose(run(turned=True, transposed=False), run(turned=False, transposed=False))


@pytest.mark.parametrize("fraction", [-0.1, 1.1, float("nan")])
def test_a_fraction_out_of_range(fraction: float) -> None:
    with pytest.raises(OptionError, match=r"iso_cts: common_space_fraction must be in 0\.\.1, got"):
        iso_cts.Options(common_space_fraction=fraction)
