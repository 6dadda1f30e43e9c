"""The largest magnitudes of task vectors: which elements they are, exactly, without a sort.

A sample brackets the magnitude that is sought; one pass over all elements counts what lies above the bracket
and collects the few inside of it; the rest is a selection among those. A bracket that missed is widened.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from threading import Lock
from typing import TYPE_CHECKING, Any

from merging import kernels

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

    from merging.kernels import Kept
    from merging.methods._seam import Parameter, Piece, Pieces

_COLLECT_ALL = 2**18  # elements; below, a sample would cost as much as it saves
_SAMPLED_PIECES = (4, 256)  # an eighth of all, within these
_SAMPLED_ELEMENTS = (2**14, 2**20)  # a 64th of all, within these
_WIDTH = 4.0  # standard errors of the sample on both sides of a bracket
_ATTEMPTS = 4  # each with a bracket four times as wide; then everything is collected


@dataclass(frozen=True)
class Cut:
    """The elements of a vector whose magnitude is above ``value``, or equal to it and before ``index``."""

    value: float
    index: int = sys.maxsize

    def keep_(self, vector: Tensor, start: int = 0) -> Tensor:
        """Zero all other elements in place.

        Args:
            vector: contiguous, any shape; its first element is number ``start`` of the parameter.
            start: see ``vector``.
        """
        import torch

        if self.value <= 0:
            return vector
        flat = vector.view(-1)
        num_before = min(max(self.index - start, 0), flat.numel())
        # hardshrink zeroes up to and with its limit
        limit = _below(self.value, is_double=flat.dtype == torch.float64)
        for part, end in ((flat[:num_before], limit), (flat[num_before:], self.value)):
            if part.numel():
                torch.hardshrink(part, end, out=part)
        return vector

    def kept(self, parameter: Parameter, scale: float = 1.0) -> Kept:
        """What ``keep_`` keeps of a piece, and then multiplies, for :mod:`merging.kernels`."""
        if self.value <= 0:
            return kernels.Kept(scale=scale)
        num_before = min(max(self.index - parameter.start, 0), parameter.size)
        return kernels.Kept(self.value, _below(self.value), num_before, scale=scale)

    def drop_(self, vector: Tensor, start: int = 0) -> Tensor:
        """Zero these elements in place."""
        if self.value <= 0:
            return vector.zero_()
        return vector.sub_(self.keep_(vector.clone(), start))


EVERYTHING = Cut(0.0)
NOTHING = Cut(math.inf, 0)


def num_elements(pieces: Pieces) -> int:
    """Elements of all pieces together; reads nothing."""
    return sum(piece.parameter.size for piece in pieces)


def task_vectors(piece: Piece) -> Iterator[tuple[str, Tensor]]:
    """(theta_t - theta_0) of each task, sorted by task; new tensors."""
    base, models = piece["base"], piece["models"]
    for task in sorted(models):
        yield task, models[task] - base


def largest(
    pieces: Pieces, counts: Mapping[str, Sequence[int]], *, with_ties: bool = False
) -> dict[str, list[Cut]]:
    """Find the k largest magnitudes of each task vector.

    Args:
        pieces: of one parameter, or of the whole model.
        counts: k by task; several are found at once.
        with_ties: take all elements that equal the k-th; otherwise exactly k, the earlier ones first; then
            ``pieces`` must be those of one parameter.

    Returns:
        Cuts by task, in the order of ``counts``.
    """
    total = num_elements(pieces)
    searches = [_Search(task, count) for task, its in counts.items() for count in its]
    missing = [search for search in searches if 0 < search.count < total]
    sample = None
    if missing and total > _COLLECT_ALL:
        sample = _Sample(pieces, total, {search.task for search in missing})
    for attempt in range(_ATTEMPTS + 1):
        for search in missing:
            if sample is not None and attempt < _ATTEMPTS:
                search.bracket = sample.bracket(search.task, search.count / total, _WIDTH * 4**attempt)
            else:
                search.bracket = (0.0, math.inf)
        _look(pieces, missing)
        missing = [search for search in missing if not search.find()]
        if not missing:
            break
    found = [search for search in searches if 0 < search.count < total]
    ends = dict.fromkeys(found, sys.maxsize) if with_ties else _ends_of_ties(pieces, found)
    cuts: dict[str, list[Cut]] = {task: [] for task in counts}
    for search in searches:
        if search.count <= 0:
            cut = NOTHING
        elif search.count >= total:
            cut = EVERYTHING
        else:
            cut = Cut(search.value, ends[search])
        cuts[search.task].append(cut)
    return cuts


@dataclass(frozen=True)
class _Seen:
    """What one piece says of one bracket."""

    above: int
    """Elements above the bracket."""
    at_high: int
    inside: NDArray[np.floating[Any]]
    """Magnitudes inside of the bracket; also its ends, where they are not counted apart."""
    at_low: int

    def num_equal(self, value: float, bracket: tuple[float, float]) -> int:
        """Elements of this magnitude, which is inside of the bracket or one of its ends."""
        import numpy as np

        number = int(np.count_nonzero(self.inside == value))
        return number + self.at_high * (value == bracket[1]) + self.at_low * (value == bracket[0])


class _Search:
    """For the k-th largest magnitude of one task vector."""

    def __init__(self, task: str, count: int) -> None:
        self.task = task
        self.count = count
        self.bracket = (0.0, math.inf)
        self.seen: list[_Seen] = []
        self.value = 0.0
        self._num_ties = 0  # of the elements that equal the k-th, how many are among the k

    def find(self) -> bool:
        """Whether the k-th largest is in the bracket; then ``value`` is its magnitude."""
        import numpy as np

        rest = self.count - sum(seen.above for seen in self.seen)
        num_high = sum(seen.at_high for seen in self.seen)
        inside = np.concatenate([seen.inside for seen in self.seen])
        num_low = sum(seen.at_low for seen in self.seen)
        if not 0 < rest <= num_high + len(inside) + num_low:
            return False
        low, high = self.bracket
        if rest <= num_high:
            self.value, self._num_ties = high, rest
        elif rest <= num_high + len(inside):
            position = len(inside) - (rest - num_high)
            inside.partition(position)
            self.value = float(inside[position])
            num_larger = int(np.count_nonzero(inside[position:] > self.value))
            self._num_ties = rest - num_larger - num_high * (self.value < high)
        else:
            self.value, self._num_ties = low, rest - num_high - len(inside)
        return True

    def last_tie(self) -> tuple[int, int] | None:
        """Which piece has the last of those among the k that equal the k-th, and which one it is there."""
        left = self._num_ties
        equal = [seen.num_equal(self.value, self.bracket) for seen in self.seen]
        if left == sum(equal) or self.value == 0:
            return None  # all of them are
        for number, found in enumerate(equal):
            if left <= found:
                return number, left
            left -= found
        raise AssertionError("more ties than elements")


def _ends_of_ties(pieces: Pieces, searches: Sequence[_Search]) -> dict[_Search, int]:
    """The element before which those that equal the k-th are among the k; reads each piece once at most."""
    ends = dict.fromkeys(searches, sys.maxsize)
    wanted: dict[int, list[tuple[_Search, int]]] = {}
    for search in searches:
        place = search.last_tie()
        if place is not None:
            wanted.setdefault(place[0], []).append((search, place[1]))
    for number, piece in enumerate(pieces):
        if number in wanted:
            base, models = piece["base"], piece["models"]
            for search, rank in wanted[number]:
                magnitudes = (models[search.task] - base).abs_().view(-1)
                position = int((magnitudes == search.value).nonzero()[rank - 1])
                ends[search] = piece.parameter.start + position + 1
    return ends


class _Sample:
    """Magnitudes of some elements of each task vector, from places all over the model."""

    def __init__(self, pieces: Pieces, total: int, tasks: Collection[str]) -> None:
        import numpy as np

        sizes = [piece.parameter.size for piece in pieces]
        num_chosen = min(max(len(sizes) // 8, _SAMPLED_PIECES[0]), _SAMPLED_PIECES[1])
        chosen = _spread(sizes, total / num_chosen)
        num_elements = min(max(total // 64, _SAMPLED_ELEMENTS[0]), _SAMPLED_ELEMENTS[1])
        step = max(sum(sizes[number] for number in chosen) // num_elements, 1)
        places = {
            (piece.parameter.name, piece.parameter.start)
            for number, piece in enumerate(pieces)
            if number in chosen
        }

        store = _Store()

        def look(piece: Piece) -> dict[str, Any]:
            if (piece.parameter.name, piece.parameter.start) not in places:
                return {}
            return {
                task: store.keep(vector.view(-1)[::step].abs().cpu().numpy())
                for task, vector in task_vectors(piece)
                if task in tasks
            }

        found = [parts for parts in pieces.map(look) if parts]
        self._parts = {task: [parts[task] for parts in found] for task in tasks}
        self._sorted = {task: np.sort(np.concatenate(parts)) for task, parts in self._parts.items()}

    def bracket(self, task: str, share: float, width: float) -> tuple[float, float]:
        """Magnitudes between which the one lies that this share of the elements reaches.

        The error of a sample of pieces is estimated from how neighbours differ, as pieces are chosen at even
        distances; it is no smaller than if elements had been drawn one by one.
        """
        import numpy as np

        magnitudes = self._sorted[task]
        size = len(magnitudes)
        middle = magnitudes[min(int(size * (1 - share)), size - 1)]
        reached = np.array([np.count_nonzero(part >= middle) / len(part) for part in self._parts[task]])
        variance = np.square(np.diff(reached)).sum() / (2 * max(len(reached) - 1, 1) * len(reached))
        error = math.sqrt(max(float(variance), share * (1 - share) / size))
        low = int(size * (1 - share - width * error)) - 2
        high = int(size * (1 - share + width * error)) + 2
        return (
            float(magnitudes[low]) if low >= 0 else 0.0,
            float(magnitudes[high]) if high < size else math.inf,
        )


def _spread(sizes: Sequence[int], distance: float) -> set[int]:
    """Numbers of the pieces that lie at even distances, counted in elements."""
    chosen = set()
    end, target = 0, distance / 2
    for number, size in enumerate(sizes):
        end += size
        if end > target:
            chosen.add(number)
            target += distance * math.ceil((end - target) / distance)
    return chosen


def _look(pieces: Pieces, searches: Sequence[_Search]) -> None:
    """Go through all elements once, for all searches."""
    tasks = {search.task for search in searches}
    store = _Store()

    def look(piece: Piece) -> list[_Seen]:
        import torch

        base, models = piece["base"], piece["models"]
        if kernels.can_fuse(base, *(models[task] for task in tasks)):
            return [_compare(base, models[search.task], search.bracket, store) for search in searches]
        vector = torch.empty_like(base)  # once: asking for memory costs more than the arithmetic
        magnitudes: Any = vector.view(-1)
        if vector.device.type == "cpu":
            magnitudes = magnitudes.numpy()  # compares and selects several times faster than torch
        seen = {}
        for task in tasks:
            torch.sub(models[task], base, out=vector).abs_()
            for number, search in enumerate(searches):
                if search.task == task:
                    seen[number] = _count(magnitudes, *search.bracket, store)
        return [seen[number] for number in range(len(searches))]

    found = pieces.map(look) if searches else []
    for search, seen in zip(searches, zip(*found, strict=True), strict=True):
        search.seen = list(seen)


class _Store:
    """Keeps arrays, many small ones in one block.

    Small blocks that outlive the large ones beside them cut free memory into parts that no piece fits into.
    """

    _BLOCK = 2**20  # elements

    def __init__(self) -> None:
        self._free: NDArray[np.floating[Any]] | None = None
        self._lock = Lock()

    def keep(self, values: NDArray[np.floating[Any]]) -> NDArray[np.floating[Any]]:
        """A copy."""
        import numpy as np

        with self._lock:
            if self._free is None or self._free.dtype != values.dtype or len(self._free) < len(values):
                self._free = np.empty(max(self._BLOCK, len(values)), values.dtype)
            place, self._free = self._free[: len(values)], self._free[len(values) :]
        place[:] = values
        return place


def _compare(base: Tensor, model: Tensor, bracket: tuple[float, float], store: _Store) -> _Seen:
    """Compare the magnitudes of a task vector with a bracket."""
    above, at_high, inside, at_low = kernels.compare(base, model, *bracket)
    return _Seen(above, at_high, store.keep(inside), at_low)


def _count(magnitudes: Any, low: float, high: float, store: _Store) -> _Seen:
    """Compare magnitudes, an array of NumPy or a tensor on a device, with a bracket."""
    from_low, above = magnitudes >= low, magnitudes > high
    num_above = _num_true(above)
    num_inside = _num_true(from_low) - num_above
    num_high = num_low = 0
    if low == high:
        num_high, num_inside = num_inside, 0
    elif num_inside > len(magnitudes) // 64:  # where magnitudes repeat, frequent ones are ends of the bracket
        from_low, from_high = magnitudes > low, magnitudes >= high
        num_low = num_above + num_inside - _num_true(from_low)
        num_high = _num_true(from_high) - num_above
        above = from_high
    inside = magnitudes[from_low ^ above] if num_inside else magnitudes[:0]
    return _Seen(num_above, num_high, store.keep(_on_cpu(inside)), num_low)


def _num_true(mask: Any) -> int:
    import numpy as np

    return int(np.count_nonzero(mask) if isinstance(mask, np.ndarray) else mask.sum())


def _on_cpu(values: Any) -> NDArray[np.floating[Any]]:
    import numpy as np

    return values if isinstance(values, np.ndarray) else values.cpu().numpy()


def _below(value: float, *, is_double: bool = False) -> float:
    """The next smaller number of float32, or of float64."""
    import numpy as np

    dtype = np.float64 if is_double else np.float32
    return float(np.nextafter(dtype(value), dtype(0)))
