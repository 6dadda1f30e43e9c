"""The label distributions: closed forms, draws, and what each refuses."""

import re
from functools import partial
from typing import Any

import pytest
import torch
from merging import hessians
from merging.errors import DataError, OptionError, UnknownNameError
from merging.hessians import _categorical, _gaussian, fisher_empirical, fisher_exact, fisher_mc, ggn
from merging.hessians._per_example import SquaredGradients
from torch import Tensor, nn

IGNORED = -100


def diagonal(
    model: nn.Module, inputs: Tensor, estimator: Any, *, labels: Tensor | None = None, **options: Any
) -> dict[str, Tensor]:
    """The mean over examples, in one batch."""
    squares = SquaredGradients(model, lambda model, batch: model(batch["x"]))
    settings = {"examples": range(len(inputs)), "num_samples": 1, "seed": 0, **options}
    squares.add({"x": inputs}, partial(estimator.cotangents, labels=labels, **settings))
    return {name: total / len(inputs) for name, total in squares.sums.items()}


def logistic_regression(num_classes: int) -> tuple[nn.Linear, Tensor]:
    generator = torch.Generator().manual_seed(3)
    model = nn.Linear(4, num_classes).double().eval()
    with torch.no_grad():
        model.weight.copy_(torch.randn(num_classes, 4, generator=generator))
        model.bias.copy_(torch.randn(num_classes, generator=generator))
    return model, torch.randn(50, 4, generator=generator).double()


def test_exact_fisher_of_logistic_regression_is_the_hessian() -> None:
    """Hessian of the mean loss = GGN = Fisher; the diagonal for w_ci is mean p_c (1 - p_c) x_i^2."""
    model, inputs = logistic_regression(3)
    p = model(inputs).softmax(-1).detach()
    expected = (p * (1 - p)).T @ inputs**2 / len(inputs)
    fisher = diagonal(model, inputs, fisher_exact)
    torch.testing.assert_close(fisher["weight"], expected)
    torch.testing.assert_close(fisher["bias"], (p * (1 - p)).mean(0))

    labels = torch.zeros(len(inputs), dtype=torch.long)  # any labels: this Hessian does not depend on them

    def loss(weight: Tensor) -> Tensor:
        return nn.functional.cross_entropy(inputs @ weight.view(3, 4).T + model.bias, labels)

    hessian = torch.autograd.functional.hessian(loss, model.weight.detach().flatten())
    torch.testing.assert_close(fisher["weight"].flatten(), hessian.diagonal())


def test_two_classes_are_one_difference() -> None:
    """F = p_0 p_1 (d (z_1 - z_0) / d theta)^2."""
    model, inputs = logistic_regression(2)
    p = model(inputs).softmax(-1).detach()
    fisher = diagonal(model, inputs, fisher_exact)
    torch.testing.assert_close(fisher["bias"][0], (p[:, 0] * p[:, 1]).mean())


def test_the_exact_passes_are_one_fewer_than_classes() -> None:
    """Their outer products sum to diag(p) - p p^T, also for scores that are next to certain."""
    scores = torch.tensor(
        [[0.3, -1.0, 2.0, 0.0], [900.0, -900.0, 0.0, 1.0], [-900.0, 0.0, 0.0, -900.0]]
    ).double()
    given = list(fisher_exact.cotangents(scores, None, examples=range(3), num_samples=1, seed=0))
    assert len(given) == 3
    found = sum(torch.einsum("bc,bd->bcd", its, its) for its in given)
    p = scores.softmax(-1)
    torch.testing.assert_close(found, torch.diag_embed(p) - torch.einsum("bc,bd->bcd", p, p))


def test_ggn_of_squared_errors_is_the_squared_jacobian() -> None:
    model, inputs = logistic_regression(2)
    found = diagonal(model, inputs, ggn, distribution=_gaussian)
    expected = inputs.square().mean(0).expand(2, 4)  # d z_c / d w_ci = x_i
    torch.testing.assert_close(found["weight"], expected)
    torch.testing.assert_close(found["bias"], torch.ones(2).double())


def test_empirical_fisher_of_logistic_regression() -> None:
    model, inputs = logistic_regression(3)
    labels = torch.arange(len(inputs)) % 3
    residual = nn.functional.one_hot(labels, 3) - model(inputs).softmax(-1).detach()
    fisher = diagonal(model, inputs, fisher_empirical, labels=labels)
    torch.testing.assert_close(fisher["weight"], (residual**2).T @ inputs**2 / len(inputs))


def test_drawn_labels_converge_to_the_expectation() -> None:
    model, inputs = logistic_regression(3)
    exact = diagonal(model, inputs, fisher_exact)["weight"]
    errors = [
        float((diagonal(model, inputs, fisher_mc, num_samples=count)["weight"] - exact).norm() / exact.norm())
        for count in (1, 400)
    ]
    assert errors[1] < 0.02 < errors[0]


def draws(scores: Tensor, examples: list[int], *, seed: int = 0, labels: Tensor | None = None) -> Tensor:
    (cotangent,) = fisher_mc.cotangents(scores, labels, examples=examples, num_samples=1, seed=seed)
    return (cotangent + scores.softmax(-1)).argmax(-1)


def test_draws_belong_to_the_example() -> None:
    scores = torch.randn(40, 5, generator=torch.Generator().manual_seed(0))
    whole = draws(scores, list(range(40)))
    order = torch.randperm(40, generator=torch.Generator().manual_seed(1))
    assert draws(scores[order], order.tolist()).equal(whole[order])
    assert torch.cat([draws(scores[i : i + 3], [*range(40)][i : i + 3]) for i in range(0, 40, 3)]).equal(
        whole
    )
    assert not draws(scores, list(range(40)), seed=1).equal(whole)
    assert not draws(scores, list(range(40, 80))).equal(whole)


def test_draws_do_not_see_padding() -> None:
    scores = torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(0))
    labels = torch.zeros(2, 3, dtype=torch.long)
    short = draws(scores, [7, 8], labels=labels)
    left = nn.functional.pad(scores, (0, 0, 2, 1))
    masked = nn.functional.pad(labels, (2, 1), value=IGNORED)
    assert draws(left, [7, 8], labels=masked)[:, 2:5].equal(short)


def test_draws_follow_the_distribution() -> None:
    scores = torch.tensor([0.6, 0.3, 0.1]).log().expand(3000, 3)
    shares = draws(scores, list(range(3000))).bincount(minlength=3) / 3000
    torch.testing.assert_close(shares, torch.tensor([0.6, 0.3, 0.1]), rtol=0, atol=0.03)


def test_a_draw_beyond_the_rounded_sum_is_the_last_class(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("merging.hessians._categorical.probabilities", lambda scores: scores)
    short = torch.full((200, 2), 0.25)  # as if the probabilities summed to 0.5
    (cotangent,) = fisher_mc.cotangents(short, None, examples=range(200), num_samples=1, seed=0)
    assert set((cotangent + short).argmax(-1).tolist()) == {0, 1}


@pytest.mark.parametrize("estimator", [fisher_exact, fisher_mc, fisher_empirical])
def test_ignored_positions_do_nothing(estimator: Any) -> None:
    scores = torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(0))
    labels = torch.tensor([[1, IGNORED, 2], [3, IGNORED, IGNORED]])
    given = estimator.cotangents(scores, labels, examples=[0, 1], num_samples=1, seed=0)
    total = torch.stack([cotangent.abs() for cotangent in given]).sum(0)
    assert (total.sum(-1) > 0).equal(labels != IGNORED)


def test_positions_are_drawn_independently() -> None:
    """The exact Fisher of several positions is the sum of theirs; the drawn one converges to it."""
    model, inputs = logistic_regression(3)
    inputs = inputs[:48].view(12, 4, 4)
    flat = diagonal(model, inputs.view(48, 4), fisher_exact)["weight"] * 4
    exact = diagonal(model, inputs, fisher_exact)["weight"]
    torch.testing.assert_close(exact, flat)
    drawn = diagonal(model, inputs, fisher_mc, num_samples=500)["weight"]
    assert (drawn - exact).norm() < 0.05 * exact.norm()


def test_many_classes_are_refused_with_advice() -> None:
    scores = torch.zeros(2, 17)
    with pytest.raises(OptionError, match=r"there are 17 \(at most 16\)\. Use fisher_mc"):
        next(fisher_exact.cotangents(scores, None, examples=[0, 1], num_samples=1, seed=0))


@pytest.mark.parametrize("estimator", [fisher_exact, fisher_mc, fisher_empirical])
def test_a_single_score_is_refused(estimator: Any) -> None:
    labels = torch.zeros(2, dtype=torch.long)
    with pytest.raises(OptionError, match="scores have 1 class; a label distribution needs at least 2"):
        next(estimator.cotangents(torch.zeros(2, 1), labels, examples=[0, 1], num_samples=1, seed=0))


def test_empirical_needs_labels() -> None:
    with pytest.raises(DataError, match=r"fisher_empirical needs labels.* Use fisher_mc or fisher_exact"):
        next(fisher_empirical.cotangents(torch.zeros(2, 3), None, examples=[0, 1], num_samples=1, seed=0))


def test_the_folder_is_the_registry() -> None:
    assert hessians.names() == (
        "block_empirical",
        "block_mc",
        "fisher_empirical",
        "fisher_exact",
        "fisher_mc",
        "ggn",
        "gram",
        "kfac_empirical",
        "kfac_mc",
        "mask_nodes",
    )
    assert hessians.load("kfac_mc").STATISTIC == "kfac"
    with pytest.raises(UnknownNameError, match=r"'fisher_mcc'\. Did you mean 'fisher_mc'"):
        hessians.check_call("fisher_mcc", {})
    with pytest.raises(UnknownNameError):
        hessians.load("artifact")


@pytest.mark.parametrize(
    ("estimator", "options", "message"),
    [
        ("fisher_mc", {"batch": 8}, "unknown option 'batch'. Did you mean 'batch_size'?"),
        ("fisher_mc", {"batch_size": 0}, "batch_size must be at least 1, got 0"),
        ("fisher_mc", {"max_examples": 0}, "max_examples must be at least 1, got 0"),
        ("fisher_mc", {"num_samples": 2.0}, "num_samples must be int, got 2.0"),
        ("fisher_exact", {"num_samples": 2}, "num_samples is 2, but this estimator draws no labels"),
    ],
)
def test_wrong_options(estimator: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(OptionError, match=re.escape(message)):
        hessians.check_call(estimator, options)


def test_averaged_over_the_predictions_of_an_example() -> None:
    labels = torch.tensor([[0, 1, -100], [1, -100, -100]])
    scores = torch.zeros(2, 3, 2)
    given = partial(fisher_empirical.cotangents, labels=labels, examples=[0, 1], num_samples=1, seed=0)
    (summed,) = given(scores)
    (averaged,) = _categorical.averaged(given, scores, labels=labels)
    assert averaged[0].equal(summed[0] / 2) and averaged[1].equal(summed[1])
