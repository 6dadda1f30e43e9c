"""Positions of an example that predict something, one after the other."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # estimators are looked up while graphs are built, where torch must not be imported
    from torch import Tensor


def one_at_a_time(where: Tensor) -> Iterator[Tensor]:
    """Yield masks like ``where``, (B,) or (B, R), that keep at most one position of each example."""
    import torch

    if where.dim() == 1:
        yield where
        return
    for position in range(where.shape[1]):
        if where[:, position].any():
            only = torch.zeros_like(where)
            only[:, position] = where[:, position]
            yield only
