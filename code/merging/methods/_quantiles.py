"""Order statistics of numbers that a method has computed for each element of one parameter."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from merging.methods._seam import Parameter, Piece, Pieces
from merging.methods._thresholds import Cut
from merging.methods._thresholds import largest as largest_magnitudes

if TYPE_CHECKING:
    from torch import Tensor

T = TypeVar("T")

_FEW = 2**14  # elements; below, a selection from all of them costs nothing

ByStart = dict[int, "Tensor"]
"""Numbers >= 0 of each piece, as a vector, by the piece's first element."""


def keep(pieces: Pieces, function: Callable[[Piece], Tensor]) -> ByStart:
    """``function`` of every piece of one parameter; several threads work at it."""
    return dict(pieces.map(lambda piece: (piece.parameter.start, function(piece).reshape(-1))))


def largest(pieces: Pieces, numbers: ByStart, count: int) -> Cut:
    """Find the ``count`` largest numbers; of equal ones the first."""
    return largest_magnitudes(_Numbers(pieces, numbers), {"": [count]})[""][0]


def quantiles(pieces: Pieces, numbers: ByStart, shares: Sequence[float]) -> list[float]:
    """Of n numbers in ascending order, those at floor(share (n - 1)), counted from 0; 0 if there are none.

    Args:
        pieces: of one parameter.
        numbers: by piece.
        shares: > 0.001 and <= 1; the smallest of many numbers is not looked for.
    """
    import torch

    total = sum(its.numel() for its in numbers.values())
    places = [int(share * (total - 1)) for share in shares]
    if not total:
        return [0.0] * len(places)
    if total <= _FEW:
        ordered = torch.cat(list(numbers.values())).sort().values
        return [float(ordered[place]) for place in places]
    counts = [total - place for place in places]
    cuts = largest_magnitudes(_Numbers(pieces, numbers), {"": counts})[""]
    return [cut.value for cut in cuts]


class _Number(dict[str, Any]):
    """A piece whose only task vector is the numbers."""

    def __init__(self, numbers: Tensor, parameter: Parameter, options: Any) -> None:
        super().__init__(base=0.0, models={"": numbers})
        self.parameter = parameter
        self.options = options


class _Numbers:
    """The numbers as pieces of a parameter, worked at by the threads of its own pieces."""

    def __init__(self, pieces: Pieces, numbers: ByStart) -> None:
        self._pieces = pieces
        self._numbers = numbers

    def __iter__(self) -> Iterator[_Number]:
        return map(self._of, self._pieces)

    def map(self, function: Callable[[Piece], T]) -> list[T]:
        return self._pieces.map(lambda piece: function(self._of(piece)))

    def _of(self, piece: Piece) -> _Number:
        return _Number(self._numbers[piece.parameter.start], piece.parameter, piece.options)
