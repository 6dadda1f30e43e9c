"""Solvers and preconditioners of the methods with curvature of whole layers."""

import pytest
import torch
from merging.errors import CheckpointError
from merging.methods._linear import Diagonal, Kronecker, softened
from merging.methods._precondition import jacobi, kronecker_inverse, regular
from merging.methods._removal import limited
from merging.methods._solve import cholesky_solve, conjugate_gradients
from torch import Tensor
from torch.testing import assert_close


def second_moment(size: int, seed: int, *, rank: int | None = None) -> Tensor:
    rows = torch.randn(rank or 3 * size, size, generator=torch.Generator().manual_seed(seed)).double()
    return rows.T @ rows / len(rows)


def operator(seed: int, weight: float = 1.0, *, rank: int | None = None) -> Kronecker:
    return Kronecker(second_moment(5, seed, rank=rank), second_moment(4, seed + 100), weight)


def dense(its: Kronecker) -> Tensor:
    assert its.outputs is not None
    return its.weight * torch.kron(its.inputs, its.outputs)


RIGHT = torch.arange(20, dtype=torch.float64).reshape(5, 4).cos()


def test_softened() -> None:
    matrix = second_moment(5, 0)
    assert_close(softened(matrix, 0.3), 0.3 * matrix + 0.7 * matrix.diagonal().diag())
    assert torch.equal(softened(matrix, 1.0), matrix)
    matrix[1, 1] = 0  # an input that is always 0, up to rounding of the rest
    assert not softened(matrix, 1.0)[1].any()
    assert not softened(matrix, 1.0)[:, 1].any()


def test_cholesky() -> None:
    matrix = second_moment(5, 0)
    x, ridge = cholesky_solve(matrix.clone(), RIGHT, precision=1e-16)
    assert_close(x, torch.linalg.solve(matrix, RIGHT))
    assert ridge == 0


def test_cholesky_of_a_singular_matrix_gives_the_smallest_solution() -> None:
    for precision, expected in ((1e-16, 1e-8), (1e-7, 1e-4)):
        matrix = second_moment(5, 0, rank=2)
        right = matrix @ RIGHT
        x, ridge = cholesky_solve(matrix.clone(), right, precision=precision)
        assert ridge == expected
        assert_close(x, torch.linalg.pinv(matrix) @ right, rtol=0, atol=30 * ridge)


def test_cholesky_leaves_out_what_is_zero() -> None:
    matrix, right = torch.zeros(5, 5, dtype=torch.float64), torch.zeros(5, 4, dtype=torch.float64)
    assert not cholesky_solve(matrix.clone(), right, precision=1e-16)[0].any()
    live = [0, 2, 3]
    matrix[torch.tensor(live)[:, None], live] = second_moment(3, 0)
    right[live] = RIGHT[live]
    x, ridge = cholesky_solve(matrix.clone(), right, precision=1e-16)
    assert_close(x[live], torch.linalg.solve(second_moment(3, 0), RIGHT[live]))
    assert not x[[1, 4]].any()
    assert ridge == 0


def test_conjugate_gradients_end_exactly_when_they_may() -> None:
    """A matrix with 2 different eigenvalues takes 2 steps."""
    matrix = torch.tensor([1.0, 1.0, 1.0, 5.0, 5.0], dtype=torch.float64).diag()
    found = conjugate_gradients(lambda x: matrix @ x, RIGHT, target=1e-10, max_iterations=50)
    assert (found.iterations, found.exit) == (2, "converged")
    assert found.initial_residual == pytest.approx(float(RIGHT.norm()))
    assert found.final_residual < 1e-10
    assert_close(found.x, torch.linalg.solve(matrix, RIGHT))
    found = conjugate_gradients(lambda x: matrix @ x, RIGHT, target=1e-10, max_iterations=1)
    assert (found.iterations, found.exit) == (1, "iterations")
    assert found.final_residual == pytest.approx(float((RIGHT - matrix @ found.x).norm()))


def test_conjugate_gradients_of_nothing() -> None:
    found = conjugate_gradients(lambda x: x, torch.zeros(3), target=0.0, max_iterations=5)
    assert (found.iterations, found.exit, found.final_residual) == (0, "converged", 0)
    assert not found.x.any()


def test_conjugate_gradients_stop_where_there_is_no_curvature() -> None:
    """An indefinite matrix: what was found before the direction without curvature stays."""
    matrix = torch.tensor([1.0, 1.0, 1.0, 1.0, -0.1], dtype=torch.float64).diag()
    right = torch.tensor([1.0, 1.0, 1.0, 1.0, 0.1], dtype=torch.float64)
    found = conjugate_gradients(lambda x: matrix @ x, right, target=1e-10, max_iterations=50)
    assert (found.iterations, found.exit) == (1, "curvature")
    assert_close(found.x[:4], right[:4], rtol=0.01, atol=0)
    nothing = conjugate_gradients(lambda x: 0 * x, right, target=1e-10, max_iterations=50)
    assert (nothing.iterations, nothing.exit) == (0, "curvature")
    assert not nothing.x.any()


def test_conjugate_gradients_stop_where_rounding_lets_nothing_change() -> None:
    matrix = second_moment(5, 0).float()
    found = conjugate_gradients(lambda x: matrix @ x, RIGHT.float(), target=0.0, max_iterations=10_000)
    assert found.exit == "stalled"
    assert found.iterations < 100
    assert_close(found.x, torch.linalg.solve(matrix, RIGHT.float()), rtol=1e-3, atol=1e-4)


def test_conjugate_gradients_keep_tiny_numbers() -> None:
    """Squares of 1e-30 are 0 in float32."""
    matrix = second_moment(5, 0).float()
    found = conjugate_gradients(lambda x: matrix @ x, 1e-30 * RIGHT.float(), target=1e-35, max_iterations=50)
    assert_close(1e30 * found.x, torch.linalg.solve(matrix, RIGHT.float()), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("delta", [0.0, 0.3])
def test_kronecker_inverse_of_one_operator_and_the_identity(delta: float) -> None:
    its = operator(0, 2.0)
    found = kronecker_inverse([its], delta, RIGHT)(RIGHT)
    expected = torch.linalg.solve(dense(its) + delta * torch.eye(20), RIGHT.reshape(-1)).reshape(5, 4)
    assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_kronecker_inverse_of_two_operators() -> None:
    pair = [operator(0, 2.0), operator(1, 0.5)]
    found = kronecker_inverse(pair, 0.0, RIGHT)(RIGHT)
    expected = torch.linalg.solve(sum(map(dense, pair)), RIGHT.reshape(-1)).reshape(5, 4)
    assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_kronecker_inverse_of_columns() -> None:
    """Without matrices of the outputs every column is on its own."""
    matrices = [second_moment(5, seed) for seed in range(3)]
    operators = [Kronecker(its, None, 2.0) for its in matrices]
    found = kronecker_inverse(operators, 0.3, RIGHT)(RIGHT)
    expected = torch.linalg.solve(2 * sum(matrices) + 0.3 * torch.eye(5), RIGHT)
    assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_kronecker_inverse_is_symmetric_and_positive_for_any_number() -> None:
    inverse = kronecker_inverse([operator(seed, rank=2) for seed in range(4)], 1e-3, RIGHT)
    unit = torch.eye(20, dtype=torch.float64)
    matrix = torch.stack([inverse(column.reshape(5, 4)).reshape(-1) for column in unit])
    assert_close(matrix, matrix.T, rtol=1e-4, atol=1e-6 * float(matrix.abs().max()))
    assert torch.linalg.eigvalsh((matrix + matrix.T) / 2).min() > 0


def test_jacobi_inverse() -> None:
    operators = [operator(seed, seed + 1.0) for seed in range(3)]
    diagonal = sum(map(dense, operators)).diagonal().reshape(5, 4)
    assert_close(jacobi(operators, 0.3)(RIGHT), RIGHT / (diagonal + 0.3))


def test_jacobi_does_not_divide_by_noise() -> None:
    """A gradient that is 0 but for rounding: the residual's own rounding must stay small there."""
    curvature = torch.tensor([1.0, 1e-16, 0.0])
    noisy = Kronecker(curvature.diag(), None, 1.0)
    assert jacobi([noisy])(torch.full((3, 1), 1e-7)).flatten().tolist() == pytest.approx(
        [1e-7, 0.84, 0], rel=1e-2
    )
    exact = jacobi([Diagonal(curvature, 1.0)])(curvature)  # elements that have nothing to do with each other
    assert_close(exact, torch.tensor([1.0, 1.0, 0.0]))


def test_limited_is_the_largest_operator_within_the_limit_along_joint_directions() -> None:
    prior, removed = operator(0), operator(1, 0.8)
    (cut,), whole = limited([removed], prior, 0.9)
    unit = torch.eye(20, dtype=torch.float64)
    matrix = torch.stack([cut(column.reshape(5, 4)).reshape(-1) for column in unit])
    assert 0 < cut.cut < 1
    assert_close(dense(whole), dense(prior))
    assert torch.linalg.eigvalsh(0.9 * dense(whole) - matrix).min() > -1e-9
    assert torch.linalg.eigvalsh(dense(removed) - matrix).min() > -1e-9
    ratios = torch.linalg.eigvals(torch.linalg.solve(dense(prior), dense(removed))).real.clamp(max=0.9)
    found = torch.linalg.eigvals(torch.linalg.solve(dense(prior), matrix)).real
    assert_close(found.sort().values, ratios.sort().values)


def test_limited_leaves_alone_what_is_small() -> None:
    prior, removed = operator(0), operator(1, 1e-3)
    (cut,), _ = limited([removed], prior, 0.9)
    assert cut.cut == 0
    assert_close(cut(RIGHT), removed(RIGHT))


def test_several_removals_share_the_limit() -> None:
    prior = operator(0)
    cuts, whole = limited([operator(1, 1e3), operator(2, 1e3)], prior, 0.8)
    assert_close(sum(cut(RIGHT) for cut in cuts), 0.8 * whole(RIGHT))


def test_what_no_ridge_makes_positive() -> None:
    for wrong in (-torch.eye(3).double(), torch.full((3, 3), torch.nan).double()):
        with pytest.raises(CheckpointError, match="not positive semi-definite"):
            regular(wrong, 1e-8)
