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
NAME = "gradient_matching_kfac"
MODULE = methods.load(NAME)
ALPHA = {"a": 0.5, "b": 1.0, "c": 0.25}
EXACT = {"tolerance": 1e-12, "num_iterations": 300}


@pytest.fixture
def make_inputs(make_inputs: MakeInputs) -> MakeInputs:
    """Factors of the tasks alone; for other methods, what they need."""
    alone = {"prior": False, "others": "task_arithmetic"}
    return lambda method, **given: make_inputs(method, **given, options=alone if method == NAME else None)


@pytest.fixture
def run(run: Run) -> Run:
    """With exactly the curvatures that are given: without damping, unless asked for."""

    def call(method: str, inputs: dict[str, Any], **options: Any) -> Tensor:
        if method == NAME:
            others = "gradient_matching" if "hessians" in inputs else "task_arithmetic"
            options = {"damping": 0.0, "prior": "base_factors" in inputs, "others": others, **options}
        elif method == "mats":
            options = {"damping": 0.0, **options}
        return run(method, inputs, **options)

    return call


@pytest.fixture
def inputs(make_inputs: MakeInputs) -> dict[str, Any]:
    """With the curvature of the base, which the method can do without."""
    made = make_inputs(NAME)
    other = make_inputs(NAME, seed=1)["factors"]["a"]
    return made | {"base_factors": replace(other, scale=3.0)}


def dense(factors: Factors | None, size: int = 30) -> Tensor:
    """A (x) G as a full matrix that acts on the weight row by row."""
    if factors is None:
        return torch.zeros(size, size, dtype=torch.float64)
    num_outputs = size // len(factors.inputs)
    unit = torch.eye(num_outputs, dtype=torch.float64)
    outputs = unit if factors.outputs is None else factors.outputs
    return factors.scale * torch.kron(outputs, factors.inputs)


def formula(
    inputs: dict[str, Any], alpha: dict[str, float], delta_0: float = 1e-12, *, anchor: bool = True
) -> Tensor:
    """As it stands in the paper, by a dense solve; without ``anchor`` H_0 pulls to the base."""
    base = inputs["base"].reshape(-1)
    prior = dense(inputs.get("base_factors")) + delta_0 * torch.eye(len(base), dtype=torch.float64)
    h_bar, right = prior.clone(), torch.zeros_like(base)
    for task, factors in inputs["factors"].items():
        hessian = dense(factors)
        pull = prior + hessian if anchor else hessian
        h_bar += alpha[task] * hessian
        right += alpha[task] * pull @ (inputs["models"][task].reshape(-1) - base)
    return (base + torch.linalg.solve(h_bar, right)).reshape(inputs["base"].shape)


def same(alpha: float) -> dict[str, float]:
    return dict.fromkeys("abc", alpha)


def task_arithmetic(inputs: dict[str, Any], alpha: Any, run: Run) -> Tensor:
    return run("task_arithmetic", {key: inputs[key] for key in ("base", "models")}, scaling_factor=alpha)


@pytest.mark.parametrize("preconditioner", ["none", "jacobi", "kronecker"])
@pytest.mark.parametrize("anchor", ["task_arithmetic", "base"])
@pytest.mark.parametrize("delta_0", [1e-12, 0.5])
def test_formula(inputs: dict[str, Any], run: Run, preconditioner: str, anchor: str, delta_0: float) -> None:
    expected = formula(inputs, ALPHA, delta_0, anchor=anchor == "task_arithmetic")
    merged = run(
        NAME,
        inputs,
        scaling_factor=ALPHA,
        delta_0=delta_0,
        anchor=anchor,
        preconditioner=preconditioner,
        **EXACT,
    )
    assert_close(merged, expected)


@pytest.mark.parametrize("delta_0", [1e-12, 0.5])
def test_formula_without_a_curvature_of_the_base(inputs: dict[str, Any], run: Run, delta_0: float) -> None:
    del inputs["base_factors"]
    merged = run(NAME, inputs, scaling_factor=0.3, delta_0=delta_0, **EXACT)
    assert_close(merged, formula(inputs, same(0.3), delta_0))


def test_default_tolerance_is_enough_in_float32(make_inputs: MakeInputs, inputs: dict[str, Any]) -> None:
    single = make_inputs(NAME, dtype=torch.float32)
    prior = inputs["base_factors"]
    single["base_factors"] = replace(prior, inputs=prior.inputs.float(), outputs=prior.outputs.float())
    told: dict[str, Any] = {}
    merged = MODULE.merge(**single, options=MODULE.Options(damping=0.0), report=told.__setitem__)
    assert told["exit"] == "converged"
    assert_close(merged.double(), formula(inputs, same(1.0)), rtol=0, atol=1e-4)


@pytest.mark.parametrize("tasks", [("a",), ("a", "b")])
@pytest.mark.parametrize("with_base", [True, False])
def test_two_operators_are_solved_in_a_step(
    make_inputs: MakeInputs, inputs: dict[str, Any], tasks: tuple[str, ...], with_base: bool
) -> None:
    """One task and H_0, two tasks, or one task and delta_0 I."""
    given = make_inputs(NAME, tasks=tasks)
    delta_0 = 1e-12
    if with_base:
        given["base_factors"] = inputs["base_factors"]
    elif len(tasks) == 1:
        delta_0 = 0.1
    told: dict[str, Any] = {}
    options = MODULE.Options(scaling_factor=0.4, delta_0=delta_0, damping=0.0)
    merged = MODULE.merge(**given, options=options, report=told.__setitem__)
    assert_close(merged, formula(given, same(0.4), delta_0), rtol=0, atol=1e-5)
    if len(tasks) + with_base <= 2:
        assert told["iterations"] == 1
    else:
        assert told["iterations"] > 1


def test_gram_matrices_alone(inputs: dict[str, Any], run: Run) -> None:
    """A_t (x) I, by Cholesky's method."""
    inputs["factors"] = {task: replace(its, outputs=None) for task, its in inputs["factors"].items()}
    inputs["base_factors"] = replace(inputs["base_factors"], outputs=None)
    for delta_0 in (1e-12, 0.5):
        merged = run(NAME, inputs, scaling_factor=ALPHA, delta_0=delta_0)
        assert_close(merged, formula(inputs, ALPHA, delta_0))


def test_the_side_of_the_outputs_can_be_left_out(inputs: dict[str, Any], run: Run) -> None:
    """K-FAC factors serve as Gram matrices, also those of the base."""
    layers = [*inputs["factors"].values(), inputs["base_factors"]]
    assert all(its.outputs is not None for its in layers)
    factors = {task: replace(its, outputs=None) for task, its in inputs["factors"].items()}
    alone = {**inputs, "factors": factors, "base_factors": replace(inputs["base_factors"], outputs=None)}
    found = run(NAME, inputs, scaling_factor=ALPHA, sides="inputs")
    assert found.equal(run(NAME, alone, scaling_factor=ALPHA))
    assert not found.allclose(run(NAME, inputs, scaling_factor=ALPHA))


def test_gram_matrices_alone_without_a_base_are_regmean(inputs: dict[str, Any], run: Run) -> None:
    grams = {task: replace(its, outputs=None) for task, its in inputs["factors"].items()}
    given = {"base": inputs["base"], "models": inputs["models"], "factors": grams}
    expected = run(
        "regmean", {"models": inputs["models"], "grams": grams}, weights=ALPHA, off_diagonal_scaling=1.0
    )
    assert_close(run(NAME, given, scaling_factor=ALPHA), expected)


@pytest.mark.parametrize("alpha", [0.7, -0.01])
def test_diagonal_factors_are_gradient_matching(inputs: dict[str, Any], run: Run, alpha: float) -> None:
    def diagonal(its: Factors) -> Factors:
        return replace(
            its, inputs=its.inputs.diagonal().diag(), outputs=(its.outputs * 1.0).diagonal().diag()
        )

    def hessian(its: Factors) -> Tensor:
        return its.scale * torch.outer(its.outputs.diagonal(), its.inputs.diagonal())

    inputs["factors"] = {task: diagonal(its) for task, its in inputs["factors"].items()}
    inputs["base_factors"] = diagonal(inputs["base_factors"])
    expected = run(
        "gradient_matching",
        {
            "base": inputs["base"],
            "models": inputs["models"],
            "base_hessian": hessian(inputs["base_factors"]),
            "hessians": {task: hessian(its) for task, its in inputs["factors"].items()},
        },
        scaling_factor=alpha,
        delta_0=0.3,
    )
    assert_close(run(NAME, inputs, scaling_factor=alpha, delta_0=0.3, **EXACT), expected)


def test_kfac_of_no_base_is_mats(inputs: dict[str, Any], run: Run) -> None:
    del inputs["base_factors"]
    given = {"models": inputs["models"], "factors": inputs["factors"]}
    expected = run("mats", given, weights=ALPHA, tolerance=1e-12)
    assert_close(run(NAME, inputs, scaling_factor=ALPHA, **EXACT), expected)


def test_flat_tasks_are_task_arithmetic(inputs: dict[str, Any], run: Run) -> None:
    for its in inputs["factors"].values():
        its.inputs.zero_()
    assert_close(run(NAME, inputs, scaling_factor=0.3), task_arithmetic(inputs, 0.3, run))


def test_infinite_prior_is_task_arithmetic(inputs: dict[str, Any], run: Run) -> None:
    assert_close(run(NAME, inputs, scaling_factor=0.3, delta_0=1e30), task_arithmetic(inputs, 0.3, run))


def test_one_task_is_its_model_whatever_the_curvature(
    make_inputs: MakeInputs, inputs: dict[str, Any], run: Run
) -> None:
    given = make_inputs(NAME, tasks=("a",)) | {"base_factors": inputs["base_factors"]}
    assert_close(run(NAME, given, delta_0=7.0), given["models"]["a"])


def test_isotropic_tasks_are_the_weighted_average(inputs: dict[str, Any], run: Run) -> None:
    curvature = {"a": 1.0, "b": 2.0, "c": 4.0}
    eye = {size: torch.eye(size, dtype=torch.float64) for size in (5, 6)}
    inputs["factors"] = {task: Factors(eye[5], eye[6], scale=c) for task, c in curvature.items()}
    inputs["base_factors"] = None
    weights = {task: ALPHA[task] * curvature[task] for task in ALPHA}
    expected = run("average", {"models": inputs["models"]}, weights=weights)
    for delta_0 in (0.0, 1e-12):
        merged = MODULE.merge(
            **inputs,
            options=MODULE.Options(damping=0.0, scaling_factor=ALPHA, delta_0=delta_0, tolerance=1e-12),
        )
        assert_close(merged, expected)


def test_proportional_curvature_is_task_arithmetic_with_other_factors(
    inputs: dict[str, Any], run: Run
) -> None:
    prior = inputs["base_factors"]
    c = {"a": 0.5, "b": 2.0, "c": 0.0}
    inputs["factors"] = {task: replace(prior, scale=prior.scale * factor) for task, factor in c.items()}
    total = 1 + sum(ALPHA[task] * c[task] for task in c)
    effective = {task: ALPHA[task] * (1 + c[task]) / total for task in c}
    merged = run(NAME, inputs, scaling_factor=ALPHA, delta_0=0.0, **EXACT)
    assert_close(merged, task_arithmetic(inputs, effective, run))


def test_zero_factors_are_the_base(inputs: dict[str, Any], run: Run) -> None:
    assert_close(run(NAME, inputs, scaling_factor=0.0), inputs["base"])


@pytest.mark.parametrize("delta_0", [0.0, 1e-12])
@pytest.mark.parametrize("preconditioner", ["none", "jacobi", "kronecker"])
def test_where_nobody_knows_it_is_task_arithmetic(
    inputs: dict[str, Any], run: Run, delta_0: float, preconditioner: str
) -> None:
    """Inputs that are always 0, and outputs without gradients; then no curvature at all."""
    for its in (inputs["base_factors"], *inputs["factors"].values()):
        its.inputs[[1, 3]] = 0
        its.inputs[:, [1, 3]] = 0
        its.outputs[2] = 0
        its.outputs[:, 2] = 0
    options = {"scaling_factor": 0.4, "delta_0": delta_0, "preconditioner": preconditioner}
    merged, arithmetic = run(NAME, inputs, **options), task_arithmetic(inputs, 0.4, run)
    assert_close(merged[:, [1, 3]], arithmetic[:, [1, 3]])
    assert_close(merged[2], arithmetic[2])
    assert (merged - arithmetic).abs().max() > 0.01
    for its in (inputs["base_factors"], *inputs["factors"].values()):
        its.inputs.zero_()
    assert_close(run(NAME, inputs, **options), arithmetic)


def test_transposed_weights(inputs: dict[str, Any], run: Run) -> None:
    other = {
        "base": inputs["base"].T.contiguous(),
        "models": {task: model.T.contiguous() for task, model in inputs["models"].items()},
        "factors": {task: replace(its, transposed=True) for task, its in inputs["factors"].items()},
        "base_factors": replace(inputs["base_factors"], transposed=True),
    }
    assert_close(run(NAME, other).T, run(NAME, inputs))


def test_a_task_without_factors_has_no_curvature(inputs: dict[str, Any], run: Run) -> None:
    inputs["factors"]["b"] = None
    assert_close(run(NAME, inputs, scaling_factor=ALPHA, **EXACT), formula(inputs, ALPHA))


def test_parameters_without_factors(make_inputs: MakeInputs, run: Run) -> None:
    """Task arithmetic, or diagonal gradient matching where there are diagonals."""
    diagonal = make_inputs("gradient_matching", shape=(4,))
    for tensor in (diagonal["base_hessian"], diagonal["hessians"]["a"]):
        tensor[0] = 0
    given = {"base": diagonal["base"], "models": diagonal["models"], "factors": dict.fromkeys("abc")}
    assert_close(run(NAME, given, scaling_factor=ALPHA), task_arithmetic(given, ALPHA, run))
    expected = run("gradient_matching", diagonal, scaling_factor=ALPHA, delta_0=0.2)
    assert_close(run(NAME, given | diagonal, scaling_factor=ALPHA, delta_0=0.2), expected)
    assert run(NAME, given | diagonal, scaling_factor=ALPHA, delta_0=0.0).isfinite().all()


def test_removal_is_the_formula_where_the_base_knows_enough(inputs: dict[str, Any], run: Run) -> None:
    prior = inputs["base_factors"]
    for its in (prior.inputs, prior.outputs):
        its.diagonal().add_(2.0)
    merged = run(NAME, inputs, scaling_factor={"a": -0.2, "b": 0.5, "c": 0.0}, delta_0=0.1, **EXACT)
    assert_close(merged, formula(inputs, {"a": -0.2, "b": 0.5, "c": 0.0}, 0.1))


@pytest.mark.parametrize("kappa", [0.1, 0.5])
def test_removal_is_cut_where_it_takes_away_the_curvature_of_the_base(
    make_inputs: MakeInputs, inputs: dict[str, Any], kappa: float
) -> None:
    """H_a = 9 H_0, of which at most 1 - kappa is taken: -(1 + 1 - kappa) / kappa times the task vector."""
    given = make_inputs(NAME, tasks=("a",))
    given["base_factors"] = inputs["base_factors"]
    given["factors"] = {"a": replace(inputs["base_factors"], scale=27.0)}
    told: dict[str, Any] = {}
    options = MODULE.Options(damping=0.0, scaling_factor=-1.0, kappa=kappa, tolerance=1e-12)
    merged = MODULE.merge(**given, options=options, report=told.__setitem__)
    expected = given["base"] - (2 - kappa) / kappa * (given["models"]["a"] - given["base"])
    assert_close(merged, expected, rtol=1e-5, atol=1e-5)
    assert told["cut_fraction"] == 1


def test_removal_is_cut_only_where_it_must_be(make_inputs: MakeInputs, run: Run) -> None:
    """Diagonal factors, so that each element is on its own."""
    given = make_inputs(NAME, tasks=("a",))
    sizes = torch.tensor([0.1, 0.5, 1.0, 2.0, 30.0], dtype=torch.float64)
    unit = torch.eye(6, dtype=torch.float64)
    given["factors"] = {"a": Factors(sizes.diag(), unit)}
    given["base_factors"] = Factors(unit[:5, :5], unit)
    taken = sizes.clamp(max=0.9)
    expected = given["base"] - (1 + taken) / (1 - taken) * (given["models"]["a"] - given["base"])
    merged = run(NAME, given, scaling_factor=-1.0, **EXACT)
    assert_close(merged, expected, rtol=1e-6, atol=1e-6)


def test_removal_from_nothing_is_finite(make_inputs: MakeInputs, inputs: dict[str, Any], run: Run) -> None:
    """No curvature of the base, or one that is 0, or singular; several removals."""
    given = make_inputs(NAME)
    for delta_0 in (0.0, 1e-12, 1.0):
        merged = run(NAME, given, scaling_factor=-1.0, delta_0=delta_0)
        assert merged.abs().max() < 1000
        prior = replace(inputs["base_factors"], inputs=torch.zeros(5, 5, dtype=torch.float64))
        merged = run(NAME, given | {"base_factors": prior}, scaling_factor=-1.0, delta_0=delta_0)
        assert merged.abs().max() < 1000
        prior.inputs[0, 0] = 1.0
        merged = run(NAME, given | {"base_factors": prior}, scaling_factor=-1.0, delta_0=delta_0)
        assert merged.abs().max() < 1000


def of_few_examples(size: int, num_examples: int, seed: int) -> Tensor:
    """A second moment in float32 whose eigenvalues are very unequal, and 0 beyond the number of examples."""
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randn(num_examples, size, generator=generator, dtype=torch.float64)
    turn = torch.randn(size, size, generator=generator, dtype=torch.float64)
    rows = rows * torch.logspace(0, -2, size, dtype=torch.float64) @ turn
    return (rows.T @ rows / num_examples).float()


def hard(num_inputs: int, num_outputs: int) -> dict[str, Any]:
    """Two tasks whose factors are of so many examples."""
    factors = [
        Factors(of_few_examples(24, num_inputs, seed), of_few_examples(8, num_outputs, seed + 10))
        for seed in range(3)
    ]
    generator = torch.Generator().manual_seed(0)
    base = torch.randn(8, 24, generator=generator)
    models = {task: base + 0.1 * torch.randn(8, 24, generator=generator) for task in "ab"}
    given = dict(zip("ab", factors[1:], strict=True))
    return {"base": base, "models": models, "factors": given, "base_factors": factors[0]}


def test_noise_of_singular_factors_is_not_followed() -> None:
    """The task vectors have a norm of 1.4; eigenvalues that are noise could make hundreds of it."""
    given = hard(12, 4)
    for options in ({}, {"delta_0": 0.0}, {"preconditioner": "none"}, {"anchor": "base"}):
        merged = MODULE.merge(**given, options=MODULE.Options(**options))
        assert (merged - given["base"]).norm() < 8
    del given["base_factors"]
    merged = MODULE.merge(**given, options=MODULE.Options())
    assert (merged - given["base"]).norm() < 8


@pytest.mark.parametrize(("num_inputs", "num_outputs"), [(40, 20), (12, 4)])
def test_removal_with_hard_factors_converges(num_inputs: int, num_outputs: int) -> None:
    told: dict[str, Any] = {}
    given = hard(num_inputs, num_outputs)
    merged = MODULE.merge(**given, options=MODULE.Options(scaling_factor=-0.5), report=told.__setitem__)
    assert told["exit"] == "converged"
    assert told["final_residual"] <= 1e-6
    assert told["iterations"] < 50
    assert 0 < told["cut_fraction"] < 1
    assert merged.dtype == torch.float32


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"delta_0": -1.0}, "gradient_matching_kfac: delta_0 must be finite and >= 0"),
        ({"scaling_factor": float("nan")}, "gradient_matching_kfac: scaling_factor must be finite"),
        ({"num_iterations": 0}, "gradient_matching_kfac: num_iterations must be >= 1, got 0"),
        ({"tolerance": 1.0}, "gradient_matching_kfac: tolerance must be >= 0 and < 1"),
        ({"kappa": 0.0}, "gradient_matching_kfac: kappa must be > 0 and <= 1"),
    ],
)
def test_wrong_options(options: dict[str, Any], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        MODULE.Options(**options)


def test_factors_that_do_not_fit(inputs: dict[str, Any], run: Run) -> None:
    prior = inputs["base_factors"]
    for wrong, message in (
        (replace(prior, outputs=None), r"factor of outputs in only one of factors\['a'\] and base_factors"),
        (replace(prior, inputs=prior.outputs), "base_factors: 'w' has 5 inputs, but its factor is"),
        (replace(prior, transposed=True), r"as \(inputs, outputs\) for one of factors\['a'\] and base_fac"),
    ):
        with pytest.raises(CheckpointError, match=message):
            run(NAME, inputs | {"base_factors": wrong})


@pytest.mark.parametrize("unit", ["mean", "norm"])
def test_damping_goes_to_both_factors(inputs: dict[str, Any], run: Run, unit: str) -> None:
    """In units of the means of their diagonals, or of their Frobenius norms."""

    def damped(its: Factors) -> Factors:
        parts = []
        for matrix in (its.inputs, its.outputs):
            assert matrix is not None
            size = matrix.diagonal().mean() if unit == "mean" else matrix.norm()
            parts.append(matrix + 0.3 * size * torch.eye(len(matrix)))
        return replace(its, inputs=parts[0], outputs=parts[1])

    lifted = inputs | {
        "factors": {task: damped(its) for task, its in inputs["factors"].items()},
        "base_factors": damped(inputs["base_factors"]),
    }
    merged = run(NAME, inputs, scaling_factor=ALPHA, damping=0.3, damping_unit=unit, **EXACT)
    assert_close(merged, run(NAME, lifted, scaling_factor=ALPHA, **EXACT))


@pytest.mark.parametrize("sides", ["both", "inputs"])
def test_without_options_damping_does_not_depend_on_the_width(inputs: dict[str, Any], sides: str) -> None:
    """A hundredth of the norms; whatever is changed here needs another ``VERSION``."""

    def merged(**options: Any) -> Tensor:
        result: Tensor = MODULE.merge(**inputs, options=MODULE.Options(sides=sides, **options))
        return result

    assert_close(merged(), merged(damping=0.01, damping_unit="norm"), rtol=0, atol=0)
    assert (merged() - merged(damping=0.1, damping_unit="mean")).abs().max() > 1e-3
    assert MODULE.VERSION == 2


def test_much_damping_is_isotropic_curvature(inputs: dict[str, Any], run: Run) -> None:
    """The weighted average of task arithmetic and the models, by the mean of each curvature."""
    merged = run(NAME, inputs, scaling_factor=ALPHA, damping=1e6, damping_unit="mean", **EXACT)

    def mean(its: Factors) -> float:
        assert its.outputs is not None
        return its.scale * float(its.inputs.diagonal().mean() * its.outputs.diagonal().mean())

    weights = {task: ALPHA[task] * mean(its) for task, its in inputs["factors"].items()}
    prior = mean(inputs["base_factors"])
    pulled = prior * task_arithmetic(inputs, ALPHA, run)
    pulled += sum(weights[task] * its for task, its in inputs["models"].items())
    assert_close(merged, pulled / (prior + sum(weights.values())), rtol=1e-4, atol=1e-4)


def test_directions_that_are_hardly_known_do_not_run_away(make_inputs: MakeInputs, run: Run) -> None:
    """Curvatures that fall off over six orders: without damping, the merge lies far outside of the models."""
    inputs = make_inputs(NAME, shape=(20, 20))
    generator = torch.Generator().manual_seed(0)

    def falling() -> Tensor:
        axes, _ = torch.linalg.qr(torch.randn(20, 20, generator=generator, dtype=torch.float64))
        return axes * torch.logspace(0, -6, 20, dtype=torch.float64) @ axes.T

    inputs["factors"] = {task: Factors(falling(), falling()) for task in "abc"}
    inputs["base_factors"] = Factors(falling(), falling())
    mean = sum(inputs["models"].values()) / 3

    def distance(damping: float) -> float:
        return float((run(NAME, inputs, scaling_factor=0.3, damping=damping, **EXACT) - mean).norm())

    assert distance(0.0) > 2 * distance(0.1)


@pytest.mark.parametrize("sides", ["both", "inputs"])
def test_the_step_is_told_in_units_of_those_of_the_models(
    make_inputs: MakeInputs, inputs: dict[str, Any], sides: str
) -> None:
    """One task with alpha = 1 is its model, whatever the curvature: as far from the base."""
    given = make_inputs(NAME, tasks=("a",)) | {"base_factors": inputs["base_factors"]}
    told: dict[str, Any] = {}
    MODULE.merge(**given, options=MODULE.Options(sides=sides), report=told.__setitem__)
    assert told["step"] == pytest.approx(1, abs=1e-5)
    MODULE.merge(**given, options=MODULE.Options(sides=sides, scaling_factor=1e-6), report=told.__setitem__)
    assert told["step"] < 1e-3
