from collections.abc import Callable
from typing import Any

import pytest
import torch
from merging import methods
from merging.errors import OptionError
from torch import Tensor
from torch.testing import assert_close

MakeInputs = Callable[..., dict[str, Any]]
WholeModel = Callable[..., Any]
Run = Callable[..., Tensor]
NAME = "gradient_matching"


def reference(inputs: dict[str, Any], alpha: dict[str, float], delta_0: float) -> Tensor:
    """The formula of the paper, as it stands there."""
    base, prior = inputs["base"], inputs["base_hessian"] + delta_0
    h_bar = prior + sum(alpha[task] * h for task, h in inputs["hessians"].items())
    pulls = (alpha[t] * (prior + h) * (inputs["models"][t] - base) for t, h in inputs["hessians"].items())
    return base + sum(pulls) / h_bar


@pytest.mark.parametrize("alpha", [0.3, 1.0, {"a": 0.2, "b": 1.5, "c": 0.0}])
@pytest.mark.parametrize("delta_0", [1e-12, 0.5])
@pytest.mark.parametrize("parity", [True, False])
def test_formula(make_inputs: MakeInputs, run: Run, alpha: Any, delta_0: float, parity: bool) -> None:
    inputs = make_inputs(NAME)
    expected = reference(inputs, alpha if isinstance(alpha, dict) else dict.fromkeys("abc", alpha), delta_0)
    assert_close(run(NAME, inputs, scaling_factor=alpha, delta_0=delta_0, parity=parity), expected)


def task_arithmetic(inputs: dict[str, Any], alpha: Any, run: Run) -> Tensor:
    return run("task_arithmetic", {key: inputs[key] for key in ("base", "models")}, scaling_factor=alpha)


def test_flat_tasks_are_task_arithmetic(make_inputs: MakeInputs, run: Run) -> None:
    inputs = make_inputs(NAME)
    inputs["hessians"] = {task: torch.zeros_like(h) for task, h in inputs["hessians"].items()}
    assert_close(run(NAME, inputs, scaling_factor=0.3), task_arithmetic(inputs, 0.3, run))


def test_infinite_prior_is_task_arithmetic(make_inputs: MakeInputs, run: Run) -> None:
    inputs = make_inputs(NAME)
    assert_close(run(NAME, inputs, scaling_factor=0.3, delta_0=1e30), task_arithmetic(inputs, 0.3, run))


def test_one_task_is_its_model_whatever_the_curvature(make_inputs: MakeInputs, run: Run) -> None:
    inputs = make_inputs(NAME, tasks=("a",))
    assert_close(run(NAME, inputs, delta_0=7.0), inputs["models"]["a"])


def test_isotropic_tasks_are_the_weighted_average(make_inputs: MakeInputs, run: Run) -> None:
    inputs = make_inputs(NAME)
    inputs["base_hessian"].zero_()
    curvature = {"a": 1.0, "b": 2.0, "c": 4.0}
    inputs["hessians"] = {task: torch.full_like(inputs["base"], c) for task, c in curvature.items()}
    alpha = {"a": 0.5, "b": 1.0, "c": 0.25}
    weights = {task: alpha[task] * curvature[task] for task in alpha}
    merged = run(NAME, inputs, scaling_factor=alpha, delta_0=0.0, parity=True)
    assert_close(merged, run("average", {"models": inputs["models"]}, weights=weights))


def test_without_a_prior_it_is_fisher_averaging(make_inputs: MakeInputs, run: Run) -> None:
    inputs = make_inputs(NAME)
    inputs["base_hessian"].zero_()
    alpha = {"a": 0.5, "b": 1.0, "c": 0.25}
    fisher_inputs = {key: inputs[key] for key in ("models", "hessians")}
    expected = run("fisher", fisher_inputs, weights=alpha, floor=0.0)
    assert_close(run(NAME, inputs, scaling_factor=alpha, delta_0=0.0, parity=True), expected)
    assert_close(run(NAME, inputs, scaling_factor=alpha, delta_0=1e-12), expected)


def test_proportional_curvature_is_task_arithmetic_with_other_factors(
    make_inputs: MakeInputs, run: Run
) -> None:
    inputs = make_inputs(NAME)
    c = {"a": 0.5, "b": 2.0, "c": 0.0}
    alpha = {"a": 1.0, "b": 0.5, "c": 0.3}
    inputs["hessians"] = {task: factor * inputs["base_hessian"] for task, factor in c.items()}
    total = 1 + sum(alpha[task] * c[task] for task in c)
    effective = {task: alpha[task] * (1 + c[task]) / total for task in c}
    merged = run(NAME, inputs, scaling_factor=alpha, delta_0=0.0, parity=True)
    assert_close(merged, task_arithmetic(inputs, effective, run))


def test_zero_factors_are_the_base(make_inputs: MakeInputs, run: Run) -> None:
    inputs = make_inputs(NAME)
    assert_close(run(NAME, inputs, scaling_factor=0.0), inputs["base"])


@pytest.mark.parametrize(("delta_0", "parity"), [(1e-12, False), (0.0, True)])
def test_where_nobody_knows_it_is_task_arithmetic(
    make_inputs: MakeInputs, run: Run, delta_0: float, parity: bool
) -> None:
    """With delta_0 = 0 the authors' code gives NaN here."""
    inputs = make_inputs(NAME)
    for tensor in (inputs["base_hessian"], *inputs["hessians"].values()):
        tensor[:3] = 0
    merged = run(NAME, inputs, scaling_factor=0.4, delta_0=delta_0, parity=parity)
    assert_close(merged[:3], task_arithmetic(inputs, 0.4, run)[:3])


def test_the_base_as_anchor_is_fisher_averaging_with_the_base_as_a_participant(
    make_inputs: MakeInputs, run: Run
) -> None:
    inputs = make_inputs(NAME)
    participants = {
        "models": {"base": inputs["base"], **inputs["models"]},
        "hessians": {"base": inputs["base_hessian"] + 0.5, **inputs["hessians"]},
    }
    weights = {"base": 1.0, "a": 0.3, "b": 0.3, "c": 0.3}
    expected = run("fisher", participants, weights=weights, floor=0.0)
    assert_close(run(NAME, inputs, scaling_factor=0.3, delta_0=0.5, anchor="base"), expected)


def test_adding_tasks_gives_elements_between_the_models_and_task_arithmetic(
    make_inputs: MakeInputs, run: Run
) -> None:
    """A weighted average of these, weight by weight: it cannot leave their range."""
    inputs = make_inputs(NAME, shape=(200,))
    corners = torch.stack([task_arithmetic(inputs, 0.8, run), *inputs["models"].values()])
    merged = run(NAME, inputs, scaling_factor=0.8)
    assert (merged >= corners.amin(0) - 1e-12).all()
    assert (merged <= corners.amax(0) + 1e-12).all()


def test_taking_a_task_out_of_a_merge_is_merging_without_it(make_inputs: MakeInputs, run: Run) -> None:
    """H theta changes by -alpha_c ((H_0 + H_c) theta_c - H_0 theta_0), and H by -alpha_c H_c; H is H_bar."""
    inputs = make_inputs(NAME)
    alpha = {"a": 0.5, "b": 1.0, "c": 0.7}
    base, prior, hessian = inputs["base"], inputs["base_hessian"] + 0.2, inputs["hessians"]["c"]
    h_bar = prior + sum(alpha[task] * its for task, its in inputs["hessians"].items())
    everything = run(NAME, inputs, scaling_factor=alpha, delta_0=0.2)
    pull = alpha["c"] * ((prior + hessian) * inputs["models"]["c"] - prior * base)
    expected = (h_bar * everything - pull) / (h_bar - alpha["c"] * hessian)
    for key in ("models", "hessians"):
        del inputs[key]["c"]
    del alpha["c"]
    assert_close(run(NAME, inputs, scaling_factor=alpha, delta_0=0.2), expected)


def test_removal_is_the_formula_where_the_base_knows_enough(make_inputs: MakeInputs, run: Run) -> None:
    inputs = make_inputs(NAME, tasks=("a",))
    inputs["base_hessian"] += 2
    expected = reference(inputs, {"a": -0.8}, 0.1)
    for parity in (True, False):
        assert_close(run(NAME, inputs, scaling_factor=-0.8, delta_0=0.1, parity=parity), expected)


def removal(fraction: float) -> dict[str, Any]:
    """A removal in which H_bar is negative in so many of 10 elements."""
    base_hessian, hessian = torch.full((10,), 2.0), torch.ones(10)
    hessian[: round(10 * fraction)] = 5.0
    return {
        "base": torch.zeros(10),
        "models": {"a": torch.ones(10)},
        "base_hessian": base_hessian,
        "hessians": {"a": hessian},
    }


def test_removal_keeps_h_bar_above_kappa_h_0(run: Run, whole_model: WholeModel) -> None:
    """H_0 = 2, H_a = 5, alpha = -1: H_bar would be -3 and is kept at 0.25 * 2."""
    module, inputs = methods.load(NAME), removal(0.3)
    merged = run(NAME, inputs, scaling_factor=-1.0, kappa=0.25)
    assert_close(merged, torch.tensor([-(2 + 5) / 0.5] * 3 + [-(2 + 1) / 1.0] * 7))
    options = module.Options(scaling_factor=-1.0, kappa=0.25)
    assert module.summarize(whole_model([inputs], options), options).floored_fraction == pytest.approx(0.3)


def test_removal_is_refused_where_it_breaks_most_of_the_model(run: Run) -> None:
    with pytest.raises(
        OptionError, match=r"scaling_factor -1\.0 takes away .* in 60% of the model, more than half"
    ):
        run(NAME, removal(0.6), scaling_factor=-1.0)


def test_parity_has_no_guard(run: Run) -> None:
    inputs = removal(0.6)
    merged = run(NAME, inputs, scaling_factor=-1.0, parity=True)
    assert_close(merged, reference(inputs, {"a": -1.0}, 1e-12))


def test_the_guard_reads_nothing_for_positive_factors(whole_model: WholeModel) -> None:
    module = methods.load(NAME)

    options = module.Options()
    assert module.summarize(whole_model([{}], options), options).floored_fraction == 0
