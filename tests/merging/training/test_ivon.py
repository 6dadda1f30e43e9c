"""The optimizer against its formulas, and on a loss whose Hessian is known."""

import copy
import dataclasses
import math
from typing import Any

import pytest
import torch
from merging.errors import MergingError, OptionError
from merging.training.ivon import HESS, MOMENTUM, Ivon, IvonOptions
from torch import Tensor, nn

CURVATURE = torch.tensor([0.2, 1.0, 3.0], dtype=torch.float64)
MINIMUM = torch.tensor([1.0, -1.0, 0.5], dtype=torch.float64)


def start(*, lr: float = 0.1, seed: int = 0, **options: Any) -> tuple[nn.Parameter, Ivon]:
    parameter = nn.Parameter(torch.zeros(3, dtype=torch.float64))
    options = {"ess": 100.0, "beta2": 0.99, "weight_decay": 0.01, **options}
    return parameter, Ivon([parameter], lr=lr, seed=seed, options=IvonOptions(**options))


def loss_of(parameter: Tensor) -> Tensor:
    """Its Hessian is the diagonal ``CURVATURE``."""
    return 0.5 * (CURVATURE * (parameter - MINIMUM).square()).sum()


def train(parameter: Tensor, optimizer: Ivon, steps: int) -> None:
    for _ in range(steps):
        with optimizer.sampled():
            loss_of(parameter).backward()
        optimizer.step()


def test_the_hessian_and_the_minimum_are_found() -> None:
    parameter, optimizer = start(beta2=0.995, weight_decay=1e-3, ess=1000.0)
    train(parameter, optimizer, 1200)
    torch.testing.assert_close(optimizer.state[parameter][HESS], CURVATURE, rtol=0.3, atol=0)
    torch.testing.assert_close(parameter.detach(), CURVATURE / (CURVATURE + 1e-3) * MINIMUM, rtol=0, atol=0.1)
    h = optimizer.state[parameter][HESS]
    assert optimizer.precision(parameter).equal(1000 * (h + 1e-3))


@pytest.mark.parametrize("approximation", ["price", "gradsq"])
@pytest.mark.parametrize("debias", [True, False])
@pytest.mark.parametrize("rescale", [True, False])
@pytest.mark.parametrize("radius", [math.inf, 0.3])
def test_two_steps_of_two_samples(approximation: Any, debias: bool, rescale: bool, radius: float) -> None:
    ess, w, beta1, beta2, lr, h0 = 50.0, 0.02, 0.8, 0.9, 0.1, 0.5
    parameter, optimizer = start(
        lr=lr,
        ess=ess,
        weight_decay=w,
        beta1=beta1,
        beta2=beta2,
        hess_init=h0,
        hess_approx=approximation,
        debias=debias,
        rescale_lr=rescale,
        clip_radius=radius,
    )
    draws = torch.randn(2, 2, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64) / 5
    m, h, v = torch.zeros(3, dtype=torch.float64), torch.full((3,), h0, dtype=torch.float64), 0.0
    for step, pair in enumerate(draws, start=1):
        for n in pair:
            with optimizer.sampled([n]):
                loss_of(parameter).backward()
        optimizer.step()
        g = CURVATURE * (m + pair - MINIMUM)
        f = ess * ((h + w) * (pair * g).mean(0) if approximation == "price" else (g**2).mean(0))
        v = beta1 * v + (1 - beta1) * g.mean(0)
        h = beta2 * h + (1 - beta2) * f + (1 - beta2) ** 2 * (h - f) ** 2 / (2 * (h + w))
        update = ((v / (1 - beta1**step) if debias else v) + w * m) / (h + w)
        m = m - (lr * (h0 + w) if rescale else lr) * update.clamp(-radius, radius)
        torch.testing.assert_close(parameter.detach(), m)
        torch.testing.assert_close(optimizer.state[parameter][HESS], h)
        torch.testing.assert_close(optimizer.state[parameter][MOMENTUM], v)


def test_a_closure_is_run_for_each_sample() -> None:
    seen = []
    parameter, optimizer = start(mc_samples=3)

    def closure() -> float:
        loss = loss_of(parameter)
        loss.backward()
        seen.append(loss.item())
        return loss.item()

    assert optimizer.step(closure) == pytest.approx(sum(seen) / 3) and len(set(seen)) == 3
    other, by_hand = start()
    for _ in range(3):
        with by_hand.sampled():
            loss_of(other).backward()
    by_hand.step()
    assert other.equal(parameter) and by_hand.num_steps == 1


def test_draws_have_the_posterior_precision() -> None:
    parameter, optimizer = start(hess_init=0.5)
    squares = []
    for _ in range(400):
        with optimizer.sampled():
            squares.append(parameter.detach() ** 2)
            loss_of(parameter).backward()
    variance = torch.stack(squares).mean()
    assert float(variance) == pytest.approx(1 / (100 * 0.51), rel=0.15)
    assert parameter.equal(torch.zeros_like(parameter))


def test_the_seed_decides_and_no_global_generator() -> None:
    state = torch.get_rng_state()
    results = []
    for seed in (0, 0, 1):
        parameter, optimizer = start(seed=seed)
        train(parameter, optimizer, 3)
        results.append(parameter.detach())
    assert results[0].equal(results[1]) and not results[0].equal(results[2])
    assert torch.get_rng_state().equal(state)


def test_a_training_goes_on_from_its_state() -> None:
    parameter, optimizer = start()
    train(parameter, optimizer, 2)
    resumed, other = start()
    with torch.no_grad():
        resumed.copy_(parameter)
    other.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    train(parameter, optimizer, 3)
    train(resumed, other, 3)
    assert resumed.equal(parameter) and other.num_steps == 5


def test_an_error_inside_a_block_leaves_the_mean() -> None:
    parameter, optimizer = start()
    with pytest.raises(KeyError), optimizer.sampled():
        raise KeyError
    assert parameter.equal(torch.zeros_like(parameter)) and parameter.grad is None
    with pytest.raises(MergingError, match=r"step\(\) found no gradients.* optimizer\.sampled"):
        optimizer.step()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"ess": 0.0}, "ess must be greater than 0, got 0.0"),
        ({"hess_init": -1.0}, "hess_init must be greater than 0"),
        ({"beta2": 1.0}, r"beta2 must be in \[0, 1\), got 1.0"),
        ({"weight_decay": -1.0}, "weight_decay must be 0 or more"),
        ({"mc_samples": 0}, "mc_samples must be at least 1"),
        ({"hess_approx": "fisher"}, "hess_approx must be 'price' or 'gradsq', got 'fisher'"),
    ],
)
def test_wrong_options(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        dataclasses.replace(IvonOptions(ess=10.0), **changes)


def test_a_wrong_learning_rate() -> None:
    with pytest.raises(OptionError, match="learning rate must be greater than 0, got 0"):
        start(lr=0.0)
