"""The mathematics of low rank, against dense matrices."""

import math

import pytest
import torch
from merging.adapters.low_rank import Update, concat, knots, linear, truncate
from merging.errors import OptionError


def update(seed: int, rank: int, *, scaling: float = 1.0) -> Update:
    generator = torch.Generator().manual_seed(seed)
    a, b = torch.randn(rank, 6, generator=generator), torch.randn(8, rank, generator=generator)
    return Update(a.double(), b.double(), scaling)


UPDATES = [update(1, 2, scaling=2.0), update(2, 3, scaling=0.5)]
WEIGHTS = [0.7, -0.4]


def weighted_sum() -> torch.Tensor:
    return sum(weight * its.dense() for weight, its in zip(WEIGHTS, UPDATES, strict=True))


def test_concat_is_the_weighted_sum() -> None:
    merged = concat(UPDATES, WEIGHTS)
    assert merged.rank == 5
    torch.testing.assert_close(merged.dense(), weighted_sum())


@pytest.mark.parametrize("rank", [1, 3, 5, 8])
def test_truncation_is_the_same_of_factors_and_of_the_matrix(rank: int) -> None:
    whole = weighted_sum()
    by_factors, by_matrix = truncate(concat(UPDATES, WEIGHTS), rank), truncate(whole, rank)
    torch.testing.assert_close(by_factors.update.dense(), by_matrix.update.dense())
    error = (by_matrix.update.dense() - whole).norm() / whole.norm()
    assert by_factors.relative_error == pytest.approx(float(error), abs=1e-12)
    assert by_matrix.relative_error == pytest.approx(float(error), abs=1e-12)
    assert (error < 1e-12) == (rank >= 5)


def test_truncation_beats_any_other_of_its_rank() -> None:
    whole = weighted_sum()
    best = truncate(whole, 2).lost
    for its in (UPDATES[0].dense() * 0.7, truncate(whole, 1).update.dense()):
        assert (whole - its).norm() > best


def test_more_rank_than_rows() -> None:
    wide = concat([update(seed, 4) for seed in range(3)], [1.0, 1.0, 1.0])  # rank 12 of 8 x 6
    assert truncate(wide, 6).relative_error < 1e-12


def test_truncation_of_nothing() -> None:
    assert truncate(torch.zeros(3, 2), 1).relative_error == 0


def test_a_clamp_cuts_both_factors_and_counts_as_loss() -> None:
    whole = weighted_sum()
    cut, clamped = truncate(whole, 3), truncate(whole, 3, clamp=0.8)
    bound = torch.quantile(torch.cat([cut.update.a.flatten(), cut.update.b.flatten()]), 0.8)
    assert clamped.update.a.abs().max() <= bound and clamped.update.b.abs().max() <= bound
    expected = (clamped.update.dense() - whole).norm() / whole.norm()
    assert clamped.relative_error == pytest.approx(float(expected))
    assert clamped.relative_error > cut.relative_error


def test_linear_has_cross_terms() -> None:
    first, second = update(1, 2, scaling=2.0), update(2, 2, scaling=0.5)
    merged = linear([first, second], [0.5, -1.0])
    f, g = math.sqrt(0.5 * 2.0), math.sqrt(1.0 * 0.5)
    exact = 0.5 * first.dense() - second.dense()
    crossed = f * g * (second.b @ first.a - first.b @ second.a)
    torch.testing.assert_close(merged.dense(), exact + crossed)
    with pytest.raises(OptionError, match=r"ranks are the same, got \[2, 3\]"):
        linear(UPDATES, WEIGHTS)


def test_the_frame_of_knots_holds_every_update() -> None:
    updates = {"a": UPDATES[0], "b": UPDATES[1], "c": Update(torch.zeros(0, 6), torch.zeros(8, 0))}
    frame = knots(updates)
    u = frame.directions
    torch.testing.assert_close(u.T @ u, torch.eye(5, dtype=u.dtype))
    for task, its in updates.items():
        torch.testing.assert_close((u @ frame.coordinates[task]).double(), its.dense().double())
    side_by_side = torch.cat([its.dense().double() for its in updates.values()], dim=1)
    lengths = torch.cat(list(frame.coordinates.values()), dim=1).norm(dim=1)
    torch.testing.assert_close(lengths, torch.linalg.svdvals(side_by_side)[:5])


def test_knots_drops_directions_that_nobody_needs() -> None:
    first = UPDATES[0]
    assert knots({"a": first, "b": first}).directions.shape == (8, 2)
