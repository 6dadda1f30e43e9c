"""Order statistics of numbers that a method has computed for each element of one parameter."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from merging.methods._seam import Parameter, Piece, Pieces
from merging.methods._thresholds import Cut, num_elements
from merging.methods._thresholds import largest as largest_magnitudes

if TYPE_CHECKING:
    from torch import Tensor

T = TypeVar("T")

_FEW = 2**14  # elements; below, a selection from all of them costs nothing


def collect(pieces: Pieces, function: Callable[[Piece], tuple[Tensor, T]]) -> tuple[Tensor, list[T]]:
    """Compute a number >= 0 for each element of one parameter; several threads work at it.

    Args:
        pieces: of one parameter.
        function: gives the numbers of a piece, in any shape, and something else.

    Returns:
        The numbers as a vector, and what else there was, by piece.
    """
    # One tensor: many small ones that stay would keep the allocator from using memory again, which costs more
    # than the arithmetic.
    for piece in pieces:
        like, _ = function(piece)
        break
    numbers = like.new_empty(num_elements(pieces))

    def work(piece: Piece) -> T:
        found, rest = function(piece)
        numbers_of(numbers, piece).copy_(found.reshape(-1))
        return rest

    return numbers, pieces.map(work)


def numbers_of(numbers: Tensor, piece: Piece) -> Tensor:
    """Those of the elements of a piece; a view."""
    return numbers[piece.parameter.start : piece.parameter.start + piece.parameter.size]


def largest(pieces: Pieces, numbers: Tensor, count: int) -> Cut:
    """Find the ``count`` largest numbers; of equal ones the first."""
    return largest_magnitudes(_Numbers(pieces, numbers), {"": [count]})[""][0]


def quantiles(pieces: Pieces, numbers: Tensor, shares: Sequence[float]) -> list[float]:
    """Of n numbers in ascending order, those at floor(share (n - 1)), counted from 0; 0 if there are none.

    Args:
        pieces: of one parameter.
        numbers: of its elements.
        shares: > 0.001 and <= 1; the smallest of many numbers is not looked for.
    """
    total = numbers.numel()
    places = [int(share * (total - 1)) for share in shares]
    if not total:
        return [0.0] * len(places)
    if total <= _FEW:
        ordered = numbers.sort().values
        return [float(ordered[place]) for place in places]
    counts = [total - place for place in places]
    cuts = largest_magnitudes(_Numbers(pieces, numbers), {"": counts})[""]
    return [cut.value for cut in cuts]


class _Number(dict[str, Any]):
    """A piece whose only task vector is the numbers."""

    def __init__(self, numbers: Tensor, parameter: Parameter, options: Any) -> None:
        super().__init__(base=numbers.new_zeros(1).expand_as(numbers), models={"": numbers})
        self.parameter = parameter
        self.options = options


class _Numbers:
    """The numbers as pieces of a parameter, worked at by the threads of its own pieces."""

    def __init__(self, pieces: Pieces, numbers: Tensor) -> None:
        self._pieces = pieces
        self._numbers = numbers

    def __iter__(self) -> Iterator[_Number]:
        return map(self._of, self._pieces)

    def map(self, function: Callable[[Piece], T]) -> list[T]:
        return self._pieces.map(lambda piece: function(self._of(piece)))

    def _of(self, piece: Piece) -> _Number:
        return _Number(numbers_of(self._numbers, piece), piece.parameter, piece.options)
