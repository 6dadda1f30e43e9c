"""What methods and the engine that runs them say to each other; imports no torch."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeVar

if TYPE_CHECKING:
    from torch import Tensor

T = TypeVar("T")

Granularity = Literal["elements", "rows", "parameter"]
"""What a method gets at a time: any piece of a parameter as a vector; some of its rows, cut along the first
dimension (a vector is one row, and comes whole); or all of it."""


@dataclass(frozen=True)
class Parameter:
    """Where the tensors of one call of ``merge`` come from."""

    name: str
    shape: tuple[int, ...]
    """Of the whole parameter, also where a call gets a piece."""
    start: int = 0
    """First element of the piece, counted row by row."""
    size: int = 0
    """Elements in the piece."""
    transposed: bool = False
    """Stored as (inputs, outputs), as GPT-2's Conv1D does; only looked up where the method asks for it
    (``needs_layout``)."""


class Piece(Protocol):
    """The inputs of ``merge`` for one piece; a tensor is read when it is asked for."""

    def __getitem__(self, key: str) -> Any:
        """One input by its name in ``merge``."""

    @property
    def parameter(self) -> Parameter:
        """Which piece of what."""

    @property
    def options(self) -> Any:
        """The method's options, resolved for this parameter."""


class Pieces(Protocol):
    """Pieces of one parameter or of the whole model, in order; may be gone through more than once."""

    def __iter__(self) -> Iterator[Piece]:
        """One after another."""

    def map(self, function: Callable[[Piece], T]) -> list[T]:
        """``function`` of every piece, in order; several threads work at it."""


class Report(Protocol):
    """Is told numbers about the parameter at hand, for ``merge.json``."""

    def __call__(self, key: str, value: float | str) -> None:
        """E.g. ``report("iterations", 12)``."""


@dataclass(frozen=True)
class Factors:
    """Curvature of one linear layer: A (x) G, which takes X = W^T to A X G."""

    inputs: Tensor
    """A, second moment of the layer's inputs, (inputs, inputs); the mean over positions."""
    outputs: Tensor | None = None
    """G, second moment of the gradients at its outputs, (outputs, outputs); None: only A was taken."""
    transposed: bool = False
    """The weight is stored as (inputs, outputs), as GPT-2's Conv1D does."""
    scale: float = 1.0
    """By what A (x) G is multiplied: the size of the training set for K-FAC, 1 for a Gram matrix."""
    num_positions: int = 0
    """Positions that A is the mean of."""
    bias: str | None = None
    """The parameter that the last row and column of A belong to, as to the weight of an input that is always
    1; None: A is of the weight alone. Methods see None: they get weight and bias as one parameter, or A
    without that row and column."""


@dataclass(frozen=True)
class MaskFisher:
    """Fisher of masks on attention heads and intermediate neurons; of the whole model."""

    heads: Tensor
    """(layers, heads)."""
    neurons: Tensor
    """(layers, intermediate size)."""
