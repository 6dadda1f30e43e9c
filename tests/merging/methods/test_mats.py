from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from merging import methods
from merging.errors import OptionError
from merging.methods._seam import Factors
from torch import Tensor
from torch.testing import assert_close

MakeInputs = Callable[..., dict[str, Any]]
Run = Callable[..., Tensor]
MODULE = methods.load("mats")
WEIGHTS = {"a": 0.5, "b": 1.0, "c": 2.0}


@pytest.fixture
def run(run: Run) -> Run:
    """With exactly the curvatures that are given: without damping."""

    def call(method: str, inputs: dict[str, Any], **options: Any) -> Tensor:
        exact: dict[str, Any] = {"damping": 0.0} if method in ("mats", "gradient_matching_kfac") else {}
        if method == "gradient_matching_kfac":
            exact |= {"prior": "base_factors" in inputs, "others": "task_arithmetic"}
        return run(method, inputs, **{**exact, **options})

    return call


@pytest.fixture
def inputs(make_inputs: MakeInputs) -> dict[str, Any]:
    return make_inputs("mats", options={"objective": "kfac"})


def blocks(inputs: dict[str, Any]) -> dict[str, Tensor]:
    """C_t as full matrices that act on the weight row by row."""
    return {task: its.scale * torch.kron(its.outputs, its.inputs) for task, its in inputs["factors"].items()}


def solution(inputs: dict[str, Any], weights: dict[str, float]) -> Tensor:
    """The minimum, by a dense solve."""
    c = {task: weights[task] * its for task, its in blocks(inputs).items()}
    right = sum(its @ inputs["models"][task].reshape(-1) for task, its in c.items())
    return torch.linalg.solve(sum(c.values()), right).reshape(6, 5)


def conjugate_gradients(c: Tensor, right: Tensor, x: Tensor, *, num: int, inverse: Tensor) -> Tensor:
    """As in a textbook; ``inverse`` is a diagonal preconditioner."""
    r = right - c @ x
    p = z = inverse * r
    for _ in range(num):
        step = (r @ z) / (p @ c @ p)
        x, old = x + step * p, (r @ z)
        r = r - step * (c @ p)
        z = inverse * r
        p = z + (r @ z) / old * p
    return x


@pytest.mark.parametrize("preconditioner", ["none", "jacobi"])
@pytest.mark.parametrize("initialization", ["zero", "average", "initial"])
def test_kfac_run_to_the_end(
    inputs: dict[str, Any], run: Run, preconditioner: str, initialization: str
) -> None:
    if initialization == "initial":
        inputs["initial"] = inputs["models"]["b"]
    merged = run(
        "mats",
        inputs,
        weights=WEIGHTS,
        preconditioner=preconditioner,
        initialization=initialization,
        tolerance=1e-12,
        num_iterations=200,
    )
    assert_close(merged, solution(inputs, WEIGHTS))


@pytest.mark.parametrize("preconditioner", ["none", "jacobi"])
@pytest.mark.parametrize("initialization", ["zero", "average", "initial"])
def test_runs_that_are_cut_short(
    inputs: dict[str, Any], run: Run, preconditioner: str, initialization: str
) -> None:
    models = {task: model.reshape(-1) for task, model in inputs["models"].items()}
    c = blocks(inputs)
    start = {
        "zero": torch.zeros(30, dtype=torch.float64),
        "average": sum(models.values()) / 3,
        "initial": torch.ones(30, dtype=torch.float64),
    }[initialization]
    if initialization == "initial":
        inputs["initial"] = start.reshape(6, 5)
    total = sum(c.values())
    inverse = 1 / total.diagonal() if preconditioner == "jacobi" else torch.ones(30, dtype=torch.float64)
    right = sum(its @ models[task] for task, its in c.items())
    for num in (1, 4):
        expected = conjugate_gradients(total, right, start, num=num, inverse=inverse).reshape(6, 5)
        merged = run(
            "mats",
            inputs,
            initialization=initialization,
            preconditioner=preconditioner,
            num_iterations=num,
        )
        assert_close(merged, expected)


def test_a_run_ends_where_the_residual_is_small_against_the_right_side(inputs: dict[str, Any]) -> None:
    """As scipy's cg does, whatever the sizes of models and curvatures."""
    c = blocks(inputs)
    total = sum(c.values())
    models = {task: 1e4 * model.reshape(-1) for task, model in inputs["models"].items()}
    right = sum(its @ models[task] for task, its in c.items())
    zero, one = torch.zeros(30, dtype=torch.float64), torch.ones(30, dtype=torch.float64)

    def residual(num: int) -> float:
        x = conjugate_gradients(total, right, zero, num=num, inverse=one)
        return float((right - total @ x).norm() / right.norm())

    expected = next(num for num in range(100) if residual(num) <= 1e-2)
    told: dict[str, Any] = {}
    options = MODULE.Options(initialization="zero", preconditioner="none", tolerance=1e-2, damping=0.0)
    large = {task: model.reshape(6, 5) for task, model in models.items()}
    MODULE.merge(large, options, factors=inputs["factors"], report=told.__setitem__)
    assert told["iterations"] == expected > 1
    assert told["initial_residual"] == pytest.approx(1)
    assert told["final_residual"] == pytest.approx(residual(expected))


def test_mean_of_the_last_iterates(inputs: dict[str, Any], run: Run) -> None:
    iterates = [run("mats", inputs, num_iterations=num) for num in (3, 4, 5)]
    assert_close(run("mats", inputs, num_iterations=5, average_last=3), sum(iterates) / 3)
    assert_close(
        run("mats", inputs, num_iterations=300, average_last=300, tolerance=1e-12),
        solution(inputs, dict.fromkeys("abc", 1.0)),
    )


def test_regmean_run_to_the_end_is_regmean(make_inputs: MakeInputs, run: Run) -> None:
    inputs = make_inputs("regmean")
    merged = run(
        "mats", inputs, objective="regmean", off_diagonal_scaling=0.7, weights=WEIGHTS, tolerance=1e-12
    )
    assert_close(merged, run("regmean", inputs, off_diagonal_scaling=0.7, weights=WEIGHTS))


def test_diagonal_fisher_run_to_the_end_is_fisher_averaging(make_inputs: MakeInputs, run: Run) -> None:
    inputs = make_inputs("fisher")
    merged = run("mats", inputs, objective="diagonal_fisher", weights=WEIGHTS, tolerance=1e-12)
    assert_close(merged, run("fisher", inputs, weights=WEIGHTS, floor=0.0))


def test_block_run_to_the_end(make_inputs: MakeInputs, run: Run) -> None:
    inputs = make_inputs("mats", shape=(7,), options={"objective": "block"})
    c = {
        task: WEIGHTS[task] * (0.9 * its + 0.1 * its.diagonal().diag())
        for task, its in inputs["blocks"].items()
    }
    right = sum(its @ inputs["models"][task] for task, its in c.items())
    expected = torch.linalg.solve(sum(c.values()), right)
    merged = run(
        "mats", inputs, objective="block", weights=WEIGHTS, off_diagonal_scaling=0.9, tolerance=1e-12
    )
    assert_close(merged, expected)


def test_average_is_the_average(make_inputs: MakeInputs, run: Run) -> None:
    models = {"models": make_inputs("average")["models"]}
    assert_close(
        run("mats", models, objective="average", weights=WEIGHTS), run("average", models, weights=WEIGHTS)
    )


def test_off_diagonal_scaling_is_of_both_factors(inputs: dict[str, Any], run: Run) -> None:
    def soft(matrix: Tensor) -> Tensor:
        return 0.3 * matrix + 0.7 * matrix.diagonal().diag()

    softened = {
        task: replace(its, inputs=soft(its.inputs), outputs=soft(its.outputs))
        for task, its in inputs["factors"].items()
    }
    merged = run("mats", inputs, off_diagonal_scaling=0.3, num_iterations=3)
    assert_close(merged, run("mats", inputs | {"factors": softened}, num_iterations=3))


@pytest.mark.parametrize("unit", ["mean", "norm"])
def test_damping_goes_to_both_factors(inputs: dict[str, Any], run: Run, unit: str) -> None:
    def lifted(matrix: Tensor) -> Tensor:
        size = matrix.norm() if unit == "norm" else matrix.diagonal().mean()
        return matrix + 0.3 * size * torch.eye(len(matrix), dtype=matrix.dtype)

    damped = {
        task: replace(its, inputs=lifted(its.inputs), outputs=lifted(its.outputs))
        for task, its in inputs["factors"].items()
    }
    merged = run("mats", inputs, damping=0.3, damping_unit=unit, num_iterations=4)
    assert_close(merged, run("mats", inputs | {"factors": damped}, num_iterations=4))


def test_without_options_damping_does_not_depend_on_the_width(inputs: dict[str, Any]) -> None:
    """A hundredth of the norms; whatever is changed here needs another ``VERSION``."""

    def merged(**options: Any) -> Tensor:
        result: Tensor = MODULE.merge(**inputs, options=MODULE.Options(**options))
        return result

    assert_close(merged(), merged(damping=0.01, damping_unit="norm"), rtol=0, atol=0)
    assert (merged() - merged(damping=0.1, damping_unit="mean")).abs().max() > 1e-3
    assert MODULE.VERSION == 2


def test_scale_of_the_factors_counts(inputs: dict[str, Any], run: Run) -> None:
    merged = run("mats", inputs, weights=WEIGHTS, initialization="zero")
    scales = {"a": 50.0, "b": 100.0, "c": 200.0}
    inputs["factors"] = {
        task: replace(inputs["factors"][task], scale=scale) for task, scale in scales.items()
    }
    assert_close(run("mats", inputs, initialization="zero"), merged)


def test_transposed_weights(inputs: dict[str, Any], run: Run) -> None:
    other = {
        "models": {task: model.T.contiguous() for task, model in inputs["models"].items()},
        "factors": {task: replace(its, transposed=True) for task, its in inputs["factors"].items()},
    }
    assert_close(run("mats", other, num_iterations=3).T, run("mats", inputs, num_iterations=3))


def test_a_layer_without_the_factor_of_outputs_is_averaged(inputs: dict[str, Any], run: Run) -> None:
    """The head of a language model; its G would have the size of the vocabulary."""
    inputs["factors"] = {task: replace(its, outputs=None) for task, its in inputs["factors"].items()}
    expected = run("average", {"models": inputs["models"]}, weights=WEIGHTS)
    assert_close(run("mats", inputs, weights=WEIGHTS, initialization="zero"), expected)


def test_what_nobody_knows_stays_where_it_began(make_inputs: MakeInputs, run: Run) -> None:
    inputs = make_inputs("mats", options={"objective": "diagonal_fisher", "initialization": "initial"})
    for hessian in inputs["hessians"].values():
        hessian[:2] = 0
    options = {"objective": "diagonal_fisher", "initialization": "initial"}
    assert_close(run("mats", inputs, **options)[:2], inputs["initial"][:2])
    for hessian in inputs["hessians"].values():
        hessian.zero_()
    assert_close(run("mats", inputs, **options), inputs["initial"])


def test_report(inputs: dict[str, Any]) -> None:
    told: dict[str, Any] = {}
    MODULE.merge(options=MODULE.Options(num_iterations=2), report=told.__setitem__, **inputs)
    assert told["iterations"] == 2
    assert told["exit"] == "iterations"
    assert 0 < told["final_residual"] < told["initial_residual"] < 2
    MODULE.merge(options=MODULE.Options(num_iterations=300), report=told.__setitem__, **inputs)
    assert told["exit"] == "converged"
    assert told["final_residual"] < 1e-5


def test_what_is_required() -> None:
    assert MODULE.required(MODULE.Options()) == ("factors",)
    assert MODULE.required(MODULE.Options(objective="average")) == ()
    assert MODULE.required(MODULE.Options(objective="block", initialization="initial")) == (
        "blocks",
        "initial",
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_iterations": 0}, "mats: num_iterations must be >= 1, got 0"),
        ({"off_diagonal_scaling": -0.1}, r"mats: off_diagonal_scaling must be in 0\.\.1, got -0\.1"),
        ({"tolerance": 1.0}, r"mats: tolerance must be >= 0 and < 1, got 1\.0"),
        ({"average_last": 101}, r"mats: average_last must be in 0\.\.num_iterations \(100\), got 101"),
        ({"weights": {"a": -1.0}}, "mats: weights must be finite and >= 0"),
        ({"weights": {"a": 0.0}}, "mats: weights must not all be 0"),
    ],
)
def test_wrong_options(options: dict[str, Any], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        MODULE.Options(**options)


def test_missing_inputs(inputs: dict[str, Any]) -> None:
    with pytest.raises(OptionError, match="missing input 'factors'; objective='kfac' needs it"):
        MODULE.merge(models=inputs["models"], options=MODULE.Options())
    with pytest.raises(OptionError, match="missing input 'initial'; initialization='initial' needs it"):
        MODULE.merge(**inputs, options=MODULE.Options(initialization="initial"))


def test_wrong_block(run: Run) -> None:
    inputs = {"models": {"a": torch.ones(3)}, "blocks": {"a": torch.eye(4)}}
    with pytest.raises(Exception, match=r"blocks\['a'\]: 'w' has 3 inputs, but its factor is \(4, 4\)"):
        run("mats", inputs, objective="block")
    factors = {"models": inputs["models"], "factors": {"a": Factors(torch.eye(3), torch.eye(1))}}
    with pytest.raises(Exception, match=r"factors\['a'\]: 'w' of shape \(3,\) is no matrix"):
        run("mats", factors)
