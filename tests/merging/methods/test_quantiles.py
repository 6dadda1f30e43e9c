from collections.abc import Callable
from typing import Any

import pytest
import torch
from merging.methods._quantiles import collect, largest, quantiles
from merging.methods._seam import Parameter


class MemoryPiece(dict[str, torch.Tensor]):
    """Some elements of a parameter."""

    def __init__(self, values: torch.Tensor, start: int, total: int) -> None:
        super().__init__(values=values)
        self.parameter = Parameter("w", (total,), start=start, size=values.numel())
        self.options = None


class MemoryPieces(list[MemoryPiece]):
    """A parameter in pieces."""

    def map(self, function: Callable[[Any], Any]) -> list[Any]:
        return [function(piece) for piece in self]


def pieces_of(values: torch.Tensor, size: int) -> Any:
    return MemoryPieces(
        MemoryPiece(values[start : start + size], start, len(values))
        for start in range(0, max(len(values), 1), size)
    )


@pytest.mark.parametrize("length", [1, 2, 3, 4, 101, 20_000, 300_001])
def test_quantiles_are_elements(length: int) -> None:
    """With equal numbers among them; both where all are sorted and where a few are looked for."""
    values = torch.randn(length, generator=torch.Generator().manual_seed(0)).abs().mul(100).round()
    pieces = pieces_of(values, 2**15)
    found = quantiles(
        pieces, collect(pieces, lambda piece: (piece["values"], None))[0], (0.25, 0.5, 0.75, 1.0)
    )
    ordered = values.sort().values
    expected = [float(ordered[int(share * (length - 1))]) for share in (0.25, 0.5, 0.75, 1.0)]
    assert found == expected


def test_quantiles_of_nothing() -> None:
    pieces = pieces_of(torch.empty(0), 4)
    assert quantiles(pieces, collect(pieces, lambda piece: (piece["values"], None))[0], (0.5,)) == [0.0]


def test_of_equal_numbers_the_first_are_the_largest() -> None:
    values = torch.tensor([0.0, 1.0, 2.0, 1.0, 1.0, 0.0])
    pieces = pieces_of(values, 2)
    numbers = collect(pieces, lambda piece: (piece["values"], None))[0]
    kept = largest(pieces, numbers, 3).keep_(values.clone())
    assert kept.tolist() == [0.0, 1.0, 2.0, 1.0, 0.0, 0.0]
    assert not largest(pieces, numbers, 0).keep_(values.clone()).any()
