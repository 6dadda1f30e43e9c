"""Sums of squared products, and of outer products, against their definitions in float64."""

import pytest
import torch
from merging.hessians._products import add_squared_products
from merging.hessians._second_moments import add_second_moments, mirrored, without_zero_rows
from torch import Tensor

NUM_EXAMPLES, NUM_POSITIONS, NUM_ROWS, NUM_COLUMNS = 5, 4, 7, 3


def factors(*, seed: int = 0, num_positions: int = NUM_POSITIONS) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    shape = NUM_EXAMPLES, num_positions
    left = torch.randn(*shape, NUM_ROWS, generator=generator, dtype=torch.float64)
    return left, torch.randn(*shape, NUM_COLUMNS, generator=generator, dtype=torch.float64)


def gradients(left: Tensor, right: Tensor) -> Tensor:
    return torch.einsum("bro,bri->boi", left, right)


def added(pairs: list[tuple[Tensor, Tensor]], lookups: list[tuple[Tensor, Tensor]] | None = None) -> Tensor:
    total = torch.ones(NUM_ROWS, NUM_COLUMNS, dtype=torch.float64)
    add_squared_products(total, pairs, lookups or [])
    return total - 1


@pytest.fixture(params=[1, 10, 1000])
def max_elements(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """A piece of a row, a few rows of one example, several examples at a time."""
    monkeypatch.setattr("merging.hessians._products._MAX_ELEMENTS", {"cpu": request.param})


@pytest.mark.usefixtures("max_elements")
@pytest.mark.parametrize("num_positions", [1, 4])
def test_one_use(num_positions: int) -> None:
    left, right = factors(num_positions=num_positions)
    before = left.clone(), right.clone()
    torch.testing.assert_close(added([(left, right)]), gradients(left, right).square().sum(0))
    assert left.equal(before[0]) and right.equal(before[1])


@pytest.mark.usefixtures("max_elements")
def test_uses_are_summed_before_they_are_squared() -> None:
    one, other = factors(seed=1), factors(seed=2, num_positions=2)
    expected = (gradients(*one) + gradients(*other)).square().sum(0)
    torch.testing.assert_close(added([one, other]), expected)


@pytest.mark.usefixtures("max_elements")
def test_looked_up_rows_are_added_before_they_are_squared() -> None:
    left, right = factors()
    ids = torch.tensor([[0, 0, 6], [1, 2, 3], [5, 5, 5], [4, 0, 4], [6, 6, 2]])
    values = torch.randn(5, 3, NUM_COLUMNS, generator=torch.Generator().manual_seed(3)).double()
    whole = gradients(left, right)
    for example in range(NUM_EXAMPLES):
        whole[example].index_add_(0, ids[example], values[example])
    torch.testing.assert_close(added([(left, right)], [(ids, values)]), whole.square().sum(0))


@pytest.mark.parametrize("used", [[[0], [3], [1], [0], [2]], [[0, 2], [], [3], [1, 3], [2]], [[]] * 5])
def test_positions_without_a_gradient_are_left_out(used: list[list[int]]) -> None:
    left, right = factors()
    mask = torch.zeros(NUM_EXAMPLES, NUM_POSITIONS, 1, dtype=torch.float64)
    for example, positions in enumerate(used):
        mask[example, positions] = 1
    left = left * mask
    torch.testing.assert_close(added([(left, right)]), gradients(left, right).square().sum(0))


@pytest.mark.usefixtures("max_elements")
def test_bfloat16_products_are_summed_in_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("merging.hessians._products._SQUARED_AT_ONCE", 5)
    left, right = (side.bfloat16() for side in factors())
    expected = gradients(left.double(), right.double()).square().sum(0) * 400
    total = torch.zeros(NUM_ROWS, NUM_COLUMNS)
    for _ in range(400):  # a sum in bfloat16 would stand still after 256
        add_squared_products(total, [(left, right)])
    torch.testing.assert_close(total.double(), expected, rtol=0.02, atol=0.02 * float(expected.mean()))


@pytest.mark.parametrize("size", [1, 3, 8, 9])
def test_second_moments(size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("merging.hessians._second_moments._MIN_BLOCK", 2)
    rows = torch.randn(20, size, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    rows[3:9] = 0
    total = torch.zeros(size, size, dtype=torch.float64)
    for part in (rows[:12], rows[12:]):
        add_second_moments(total, without_zero_rows(part))
    torch.testing.assert_close(mirrored(total), rows.T @ rows)


def test_rows_of_zeros_are_left_out() -> None:
    rows = torch.zeros(4, 20)
    rows[1, 15] = rows[3, 2] = 1
    assert without_zero_rows(rows).equal(rows[[1, 3]])
    rows[:, 0] = 1
    assert without_zero_rows(rows) is rows
