"""Singular values by way of eigenvalues: as the decomposition of the matrix itself."""

import pytest
import torch
from merging.methods import _svd
from torch import Tensor
from torch.testing import assert_close


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("shape", [(5, 9), (9, 5), (6, 6), (1, 4), (4, 1), (1, 1)])
def test_parts_make_up_the_matrix(shape: tuple[int, int]) -> None:
    matrix = random(*shape)
    left, values, right = _svd.decompose(matrix)
    assert_close(values, torch.linalg.svdvals(matrix))
    assert_close((left * values) @ right, matrix)
    assert_close(left.T @ left, torch.eye(min(shape), dtype=torch.float64))
    assert_close(right @ right.T, torch.eye(min(shape), dtype=torch.float64))


@pytest.mark.parametrize("scale", [1e-20, 1.0, 1e20])
def test_small_singular_values_in_any_unit(scale: float) -> None:
    """Down to 1e-5 of the largest, which a task vector in single precision still knows."""
    u, v = (torch.linalg.qr(random(8, 4, seed=seed)).Q for seed in (0, 1))
    spectrum = torch.tensor([1.0, 1e-2, 1e-4, 1e-5], dtype=torch.float64)
    matrix = scale * (u * spectrum) @ v.T
    left, values, right = _svd.decompose(matrix)
    assert_close(values / scale, spectrum, rtol=1e-5, atol=0)
    assert_close(left @ right, u @ v.T, rtol=0, atol=1e-5)


def test_directions_of_chance_are_left_out() -> None:
    matrix = random(6, 2) @ random(2, 7)
    assert [its.shape for its in _svd.decompose(matrix)] == [(6, 2), (2,), (2, 7)]
    assert [its.shape for its in _svd.decompose(torch.zeros(3, 4).double())] == [(3, 0), (0,), (0, 4)]


@pytest.mark.parametrize("shape", [(5, 9), (9, 5)])
def test_first_directions(shape: tuple[int, int]) -> None:
    matrix = random(*shape)
    left, values, right = _svd.decompose(matrix)
    for found, expected in zip(
        _svd.decompose(matrix, first=2), (left[:, :2], values[:2], right[:2]), strict=True
    ):
        assert_close(found, expected)


def test_polar_factor_is_the_nearest_orthogonal_matrix() -> None:
    matrix = random(5, 3)
    left, _, right = torch.linalg.svd(matrix, full_matrices=False)
    assert_close(_svd.polar(matrix), left @ right)
    doubled = torch.cat([left, left], 1)
    assert_close(_svd.polar(doubled), doubled / 2**0.5)
    assert_close(_svd.polar(torch.zeros(2, 3).double()), torch.zeros(2, 3).double())


def test_what_is_a_matrix() -> None:
    shapes = [(2, 3), (2, 3, 1, 1), (2,), (), (0, 3), (2, 0, 3)]
    assert [_svd.has_matrix(its, parity=False) for its in shapes] == [True, True, False, False, False, False]
    assert [_svd.has_matrix(its, parity=True) for its in shapes] == [True, False, False, False, False, False]


@pytest.mark.parametrize(("shape", "transposed"), [((2, 3), False), ((2, 3), True), ((2, 3, 4, 5), False)])
def test_there_and_back(shape: tuple[int, ...], transposed: bool) -> None:
    tensor = random(*shape).float()
    matrix = _svd.to_matrix(tensor, transposed=transposed)
    assert matrix.shape == ((3, 2) if transposed else (2, tensor.numel() // 2))
    assert torch.equal(_svd.from_matrix(matrix, tensor, transposed=transposed), tensor)
