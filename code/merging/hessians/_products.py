"""Sums over examples of squared matrix products, at about the price of one product for the whole batch.

    total += sum_b (sum_r left_br right_br^T) .* itself

Shapes: B examples, R positions of each, o rows and i columns of the matrix.

The arithmetic is that of the product of all examples, but its o x i numbers are made once for each example
instead of once. They must not travel to memory: a few rows of the matrix are formed at a time, for one small
group of examples after the other, and squared and added while they are in the cache.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

_MAX_ELEMENTS = {"cpu": 1 << 18, "cuda": 1 << 27}
"""Elements of per-example gradients that exist at one time: about the cache of a CPU; half a GB of a GPU."""
_MAX_HALVES = 8
"""So many times as many elements of 16 bits: their products are so fast that small ones do not pay."""
_SQUARED_AT_ONCE = 1 << 17
_WIDE = 512
_LOOKED_AT = 8
"""Numbers of a position that are looked at first, to see whether it has a gradient."""

Pair = tuple[Tensor, Tensor]


def add_squared_products(total: Tensor, pairs: Sequence[Pair], lookups: Sequence[Pair] = ()) -> None:
    """Add to ``total`` the sum over examples of the squared gradient of a matrix.

    Args:
        total: (o, i), float32 or float64.
        pairs: left (B, R, o) and right (B, R, i), one for each use of the matrix, at least one. Products are
            formed in their dtype.
        lookups: ids (B, R) and values (B, R, i): row ids[b, r] of the gradient also receives values[b, r].
    """
    pairs = [_with_gradient(left, right) for left, right in pairs]
    if len(pairs) == 1 and not lookups and pairs[0][0].shape[1] == 1:
        left, right = (side[:, 0].to(total.dtype).square() for side in pairs[0])
        total.addmm_(left.T, right)
        return
    if pairs[0][0].dtype != total.dtype:
        pairs = [_transposed(left, right) for left, right in pairs]
    num_examples, dtype = len(pairs[0][0]), pairs[0][0].dtype
    num_rows, size = _tile(total, num_examples, dtype)
    tile = total.new_empty(size, num_rows, total.shape[1], dtype=dtype)
    scratch = total.new_empty(min(_SQUARED_AT_ONCE, tile[0].numel()))
    widens = total.device.type == "cpu" and size == 1 and dtype != total.dtype
    rights = [torch.split(right, size) for _, right in pairs]
    for first in range(0, len(total), num_rows):
        rows = slice(first, min(first + num_rows, len(total)))
        part, products = total[rows], tile[:, : rows.stop - first]
        pieces = list(_pieces(part, products[0], scratch)) if widens else []
        lefts = [torch.split(left[:, :, rows].mT, size) for left, _ in pairs]
        for number, factors in enumerate(zip(lefts[0], rights[0], strict=True)):
            product = _product(*factors, out=products)
            for use in range(1, len(pairs)):
                product.baddbmm_(lefts[use][number], rights[use][number])
            for ids, values in lookups:
                examples = slice(number * size, (number + 1) * size)
                _look_up(product, ids[examples], values[examples], rows)
            if widens:
                for sums, narrow, wide in pieces:
                    wide.copy_(narrow)
                    sums.addcmul_(wide, wide)
            else:
                _add_squares(part, product)


def _product(left: Tensor, right: Tensor, *, out: Tensor) -> Tensor:
    """left @ right of (b, rows, R) and (b, R, i), in the first b of ``out``."""
    if len(out) == 1:
        torch.mm(left[0], right[0], out=out[0])
        return out
    return torch.bmm(left, right, out=out[: len(left)])


def _add_squares(total: Tensor, product: Tensor) -> None:
    """Add the squares of (b, rows, i), which may be overwritten."""
    if product.device.type != "cpu":  # one kernel reads the products once
        norms = torch.linalg.vector_norm(product, dim=0, dtype=total.dtype)
        total.addcmul_(norms, norms)
    elif len(product) > 1:
        total.add_(product.to(total.dtype).square_().sum(0))
    else:
        total.addcmul_(product[0], product[0])


def _pieces(total: Tensor, product: Tensor, scratch: Tensor) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Pieces of the sums, of 16-bit products, and room to widen them, that fit into the cache together."""
    sums, products = total.view(-1), product.view(-1)
    for start in range(0, len(sums), len(scratch)):
        part = sums[start : start + len(scratch)]
        yield part, products[start : start + len(part)], scratch[: len(part)]


def _transposed(left: Tensor, right: Tensor) -> Pair:
    """Lay the left side out by row, as 16-bit products prefer; for narrow matrices it is not worth it."""
    if left.device.type != "cpu" or right.shape[2] < _WIDE:
        return left, right
    return left.mT.contiguous().mT, right


def _look_up(product: Tensor, ids: Tensor, values: Tensor, rows: slice) -> None:
    """Add values to the rows of (b, rows, i) that are looked up."""
    example, position = ((ids >= rows.start) & (ids < rows.stop)).nonzero(as_tuple=True)
    if len(example):
        row = ids[example, position] - rows.start
        found = values[example, position].to(product.dtype)
        product.index_put_((example, row), found, accumulate=True)


def _with_gradient(left: Tensor, right: Tensor) -> Pair:
    """Leave out positions without a gradient: padding, and in the last layer of a classifier all but one.

    They are moved out position by position, so that as many stay as the example with most of them needs.
    """
    if left.device.type != "cpu" or left.shape[1] == 1:  # to look would make a GPU wait
        return left, right
    if left[..., :_LOOKED_AT].any(-1).all():
        return left, right
    used = left.any(-1)
    longest = max(1, int(used.sum(1).max()))
    if longest == left.shape[1]:
        return left, right
    places = used.to(torch.uint8).sort(dim=1, descending=True, stable=True).indices[:, :longest, None]
    return left.take_along_dim(places, 1), right.take_along_dim(places, 1)


def _tile(total: Tensor, num_examples: int, dtype: torch.dtype) -> tuple[int, int]:
    """How many rows of the matrix, and how many examples, are formed at a time."""
    most = max_elements(total)
    on_cpu_in_halves = total.device.type == "cpu" and dtype != total.dtype
    num_rows = max(1, most * (_MAX_HALVES if on_cpu_in_halves else 1) // total.shape[1])
    num_rows = -(-len(total) // -(-len(total) // num_rows))  # as equal as may be
    return num_rows, min(num_examples, max(1, most // (num_rows * total.shape[1])))


def max_elements(total: Tensor) -> int:
    """Elements of per-example gradients that may exist at one time where ``total`` lies."""
    return _MAX_ELEMENTS.get(total.device.type, 1 << 24)
