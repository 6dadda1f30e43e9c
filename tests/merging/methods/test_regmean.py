from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from merging import methods
from merging.errors import CheckpointError, OptionError
from merging.methods._seam import Factors
from torch import Tensor
from torch.testing import assert_close

MakeInputs = Callable[..., dict[str, Any]]
Run = Callable[..., Tensor]


def solution(inputs: dict[str, Any], scaling: float = 1.0, weights: dict[str, float] | None = None) -> Tensor:
    """The formula of the paper, as it stands there."""
    left, right = 0, 0
    for task, gram in inputs["grams"].items():
        a = scaling * gram.inputs + (1 - scaling) * gram.inputs.diagonal().diag()
        a = a * (1.0 if weights is None else weights[task])
        left, right = left + a, right + a @ inputs["models"][task].T
    return torch.linalg.solve(left, right).T


@pytest.mark.parametrize("scaling", [0.0, 0.1, 0.9, 1.0])
def test_formula(make_inputs: MakeInputs, run: Run, scaling: float) -> None:
    inputs = make_inputs("regmean")
    assert_close(run("regmean", inputs, off_diagonal_scaling=scaling), solution(inputs, scaling))


def test_default_scaling(make_inputs: MakeInputs, run: Run) -> None:
    inputs = make_inputs("regmean")
    assert_close(run("regmean", inputs), solution(inputs, 0.9))


def test_weights(make_inputs: MakeInputs, run: Run) -> None:
    inputs = make_inputs("regmean")
    weights = {"a": 0.2, "b": 3.0, "c": 0.0}
    assert_close(run("regmean", inputs, weights=weights), solution(inputs, 0.9, weights))


def test_weights_by_positions(make_inputs: MakeInputs, run: Run) -> None:
    inputs = make_inputs("regmean")
    positions = {"a": 7, "b": 900, "c": 30}
    inputs["grams"] = {task: replace(inputs["grams"][task], num_positions=n) for task, n in positions.items()}
    expected = solution(inputs, 0.9, {task: float(n) for task, n in positions.items()})
    assert_close(run("regmean", inputs, weigh_by_positions=True), expected)


def test_scale_of_a_gram_matrix_counts(make_inputs: MakeInputs, run: Run) -> None:
    inputs = make_inputs("regmean")
    expected = solution(inputs, 0.9, {"a": 5.0, "b": 1.0, "c": 1.0})
    inputs["grams"]["a"] = replace(inputs["grams"]["a"], scale=5.0)
    assert_close(run("regmean", inputs), expected)


def test_transposed_weights(make_inputs: MakeInputs, run: Run) -> None:
    """GPT-2's Conv1D, also where the matrix is square and its shape tells nothing."""
    for shape in ((6, 5), (5, 5)):
        inputs = make_inputs("regmean", shape=shape)
        other = {
            "models": {task: model.T.contiguous() for task, model in inputs["models"].items()},
            "grams": {task: replace(gram, transposed=True) for task, gram in inputs["grams"].items()},
        }
        assert_close(run("regmean", other).T, run("regmean", inputs))


def test_convolution_is_the_matrix_of_its_patches(make_inputs: MakeInputs, run: Run) -> None:
    inputs = make_inputs("regmean", shape=(6, 12))
    kernels = {task: model.reshape(6, 3, 2, 2) for task, model in inputs["models"].items()}
    merged = run("regmean", {"models": kernels, "grams": inputs["grams"]})
    assert merged.shape == (6, 3, 2, 2)
    assert_close(merged.reshape(6, 12), run("regmean", inputs))


def test_equal_grams_are_the_weighted_average(make_inputs: MakeInputs, run: Run) -> None:
    inputs = make_inputs("regmean")
    inputs["grams"] = dict.fromkeys(inputs["grams"], inputs["grams"]["a"])
    weights = {"a": 0.2, "b": 3.0, "c": 1.0}
    expected = run("average", {"models": inputs["models"]}, weights=weights)
    assert_close(run("regmean", inputs, weights=weights), expected)


def test_diagonal_grams_are_fisher_averaging(make_inputs: MakeInputs, run: Run) -> None:
    inputs = make_inputs("regmean")
    models = inputs["models"]
    hessians = {task: its.inputs.diagonal().expand(6, 5).clone() for task, its in inputs["grams"].items()}
    expected = run("fisher", {"models": models, "hessians": hessians}, floor=0.0)
    assert_close(run("regmean", inputs, off_diagonal_scaling=0.0), expected)


def test_models_with_inputs_apart_are_all_reproduced(run: Run) -> None:
    """Two tasks of two inputs each that span four dimensions: no output changes on any of them."""
    generator = torch.Generator().manual_seed(0)
    data = {task: torch.randn(2, 4, generator=generator, dtype=torch.float64) for task in "ab"}
    models = {task: torch.randn(3, 4, generator=generator, dtype=torch.float64) for task in "ab"}
    grams = {task: Factors(rows.T @ rows) for task, rows in data.items()}
    merged = run("regmean", {"models": models, "grams": grams}, off_diagonal_scaling=1.0)
    for task, rows in data.items():
        assert_close(rows @ merged.T, rows @ models[task].T)


def test_what_no_input_says_is_as_in_the_average(run: Run) -> None:
    """Fewer positions than inputs: the smallest change of the average; also after rounding to float32."""
    generator = torch.Generator().manual_seed(0)
    data = {task: torch.randn(3, 9, generator=generator, dtype=torch.float64) for task in "ab"}
    models = {task: torch.randn(4, 9, generator=generator, dtype=torch.float64) for task in "ab"}
    exact = {task: rows.T @ rows for task, rows in data.items()}
    mean = sum(models.values()) / 2
    right = sum(gram @ (models[task] - mean).T for task, gram in exact.items())
    expected = mean + (torch.linalg.pinv(sum(exact.values()), rtol=1e-10) @ right).T
    for dtype, tolerance in ((torch.float64, 1e-6), (torch.float32, 1e-2)):
        inputs = {
            "models": {task: its.to(dtype) for task, its in models.items()},
            "grams": {task: Factors(its.to(dtype)) for task, its in exact.items()},
        }
        merged = run("regmean", inputs, off_diagonal_scaling=1.0)
        assert_close(merged.double(), expected, rtol=0, atol=tolerance)


def test_inputs_that_are_always_zero_are_averaged(make_inputs: MakeInputs, run: Run) -> None:
    inputs = make_inputs("regmean")
    for gram in inputs["grams"].values():
        gram.inputs[[1, 3]] = 0
        gram.inputs[:, [1, 3]] = 0
    weights = {"a": 0.5, "b": 1.0, "c": 0.25}
    merged = run("regmean", inputs, weights=weights)
    expected = run("average", {"models": inputs["models"]}, weights=weights)
    assert_close(merged[:, [1, 3]], expected[:, [1, 3]])
    live = [0, 2, 4]
    part = {
        "models": {task: model[:, live] for task, model in inputs["models"].items()},
        "grams": {task: Factors(its.inputs[live][:, live]) for task, its in inputs["grams"].items()},
    }
    assert_close(merged[:, live], solution(part, 0.9, weights))


def test_rounding_that_makes_a_gram_asymmetric_is_averaged_out(make_inputs: MakeInputs, run: Run) -> None:
    inputs = make_inputs("regmean")
    expected = run("regmean", inputs)
    for gram in inputs["grams"].values():
        noise = 0.1 * torch.ones(5, 5, dtype=torch.float64).triu(1)
        gram.inputs.add_(noise - noise.T)
    assert_close(run("regmean", inputs), expected)


def test_parameters_without_grams_are_averaged(make_inputs: MakeInputs, run: Run) -> None:
    inputs = make_inputs("regmean")
    weights = {"a": 0.5, "b": 1.0, "c": 0.25}
    expected = run("average", {"models": inputs["models"]}, weights=weights)
    assert_close(run("regmean", inputs, weights=weights, exclude=["head", "w*"]), expected)
    inputs["grams"]["b"] = None
    assert_close(run("regmean", inputs, weights=weights), expected)
    assert_close(run("regmean", inputs, weights=weights, normalize=False), 1.75 * expected)


def test_reports_the_ridge() -> None:
    module, told = methods.load("regmean"), {}
    data = torch.ones(1, 4, dtype=torch.float64)
    models = {"a": torch.eye(4, dtype=torch.float64), "b": torch.ones(4, 4, dtype=torch.float64)}
    grams = {"a": Factors(data.T @ data), "b": Factors(data.T @ data)}
    options = module.Options(off_diagonal_scaling=1.0)
    module.merge(models, grams, options, report=told.__setitem__)
    assert told == {"ridge": 1e-8}


def test_errors(make_inputs: MakeInputs, run: Run) -> None:
    with pytest.raises(OptionError, match=r"regmean: off_diagonal_scaling must be in 0\.\.1, got 1\.5"):
        methods.load("regmean").Options(off_diagonal_scaling=1.5)
    with pytest.raises(OptionError, match="regmean: weights must not all be 0"):
        methods.load("regmean").Options(weights={"a": 0.0})
    inputs = make_inputs("regmean")
    inputs["grams"]["b"] = replace(inputs["grams"]["b"], num_positions=0)
    with pytest.raises(CheckpointError, match=r"number of positions, which grams\['b'\] does not say"):
        run("regmean", inputs, weigh_by_positions=True)
    inputs["grams"]["b"] = Factors(torch.eye(6, dtype=torch.float64))
    with pytest.raises(CheckpointError, match=r"grams\['b'\]: 'w' has 5 inputs, but its factor is \(6, 6"):
        run("regmean", inputs)
    inputs["grams"]["b"] = Factors(torch.eye(6, dtype=torch.float64), transposed=True)
    with pytest.raises(
        CheckpointError, match=r"'w' is stored as \(inputs, outputs\) for one of grams\['a'\]"
    ):
        run("regmean", inputs)
    inputs["grams"] = dict.fromkeys("abc", Factors(-torch.eye(5, dtype=torch.float64)))
    with pytest.raises(CheckpointError, match="not positive semi-definite"):
        run("regmean", inputs)
