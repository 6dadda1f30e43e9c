"""Sums of v v^T over many vectors v of d numbers: a symmetric matrix, of which one half is computed."""

from __future__ import annotations

import torch
from torch import Tensor

_MIN_BLOCK, _MAX_BLOCKS = 192, 8
"""More and smaller blocks leave out more of the lower half, and their products run slower."""


def add_second_moments(total: Tensor, rows: Tensor) -> None:
    """Add the sum of the outer products of ``rows``, (n, d), to ``total``, (d, d).

    Only the upper triangle of ``total`` counts: below it are whatever blocks on the diagonal left there. See
    :func:`mirrored`. Products are formed in the dtype of ``rows``.
    """
    size = len(total)
    num_blocks = min(_MAX_BLOCKS, max(1, size // _MIN_BLOCK))
    width = -(-size // num_blocks)
    for start in range(0, size, width):
        block = total[start : start + width, start:]
        left, right = rows[:, start : start + width].T, rows[:, start:]
        if rows.dtype == total.dtype:
            block.addmm_(left, right)
        else:
            block.add_(left @ right)


def mirrored(total: Tensor) -> Tensor:
    """Return the symmetric matrix whose upper triangle is that of ``total``."""
    upper = total.triu()
    return upper + total.triu(1).T


def without_zero_rows(rows: Tensor) -> Tensor:
    """Leave out vectors of zeros, (n, d) -> (m, d): in the last layer of a classifier most positions.

    On a GPU nothing is left out: to look would make it wait.
    """
    looked_at = 8
    if rows.device.type != "cpu" or bool(rows[:, :looked_at].any(1).all()):
        return rows
    return rows[torch.any(rows, 1)]
