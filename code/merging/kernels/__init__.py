"""Arithmetic of methods that is fused in C, where a compiler was found when this package was installed.

Each function has its counterpart in torch, in the method that calls it, and gives the same numbers bit for
bit; :func:`can_fuse` says which of the two is to be used. Other Python threads go on meanwhile.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

MAX_TASKS = 256
"""With more, the blocks that fit into the cache would be too short."""


@dataclass(frozen=True)
class Draw:
    """Keeps elements at random, by the numbers of :mod:`merging.methods._random`."""

    key: bytes
    """Of the generator; 16 bytes."""
    place: int
    """Number of the first element."""
    limit: int
    """An element is kept where its number, an int32, is smaller."""


@dataclass(frozen=True)
class Kept:
    """What is left of a task vector, and by what that is multiplied."""

    value: float = 0.0
    """Larger magnitudes are kept; with 0, everything is."""
    end: float = 0.0
    """The same for the first elements."""
    num_before: int = 0
    """How many the first elements are."""
    draw: Draw | None = None
    """In place of magnitudes."""
    scale: float = 1.0
    """By what the rest is multiplied."""


def is_built() -> bool:
    """Whether there was a compiler."""
    return _library() is not None


def can_fuse(base: Tensor, *others: Tensor) -> bool:
    """Whether the functions of this module can be used.

    They take contiguous float32 of one shape on the processor, one model at least; and check nothing.
    """
    import torch

    return (
        is_built()
        and len(others) > 0
        and all(
            its.dtype == torch.float32
            and its.device.type == "cpu"
            and its.is_contiguous()
            and its.shape == base.shape
            for its in (base, *others)
        )
    )


def merge_agreeing(
    base: Tensor,
    models: Sequence[Tensor],
    kept: Sequence[Kept],
    weights: Sequence[float],
    *,
    is_mean: bool,
    balanced: int = 1,
    scaling_factor: float = 1.0,
) -> Tensor:
    """Merge what has the sign of the sum: steps 1 to 3 of TIES, thresholds given.

    Args:
        base: theta_0.
        models: theta_t, of the same shape; ``MAX_TASKS`` at most.
        kept: what is left of each task vector.
        weights: w_t.
        is_mean: divide by the sum of the weights of the tasks that agree.
        balanced: 1 or -1, the sign where the sum is 0.
        scaling_factor: lambda.

    Returns:
        theta_0 + lambda times what agrees; a new tensor.
    """
    import torch

    out = torch.empty_like(base)
    _functions().merge_agreeing(
        _pointer(base), _tasks(models, kept, weights), len(models), is_mean, float(balanced), scaling_factor,
        _pointer(out), base.numel(),
    )  # fmt: skip
    return out


def balance(base: Tensor, models: Sequence[Tensor], kept: Sequence[Kept], weights: Sequence[float]) -> int:
    """Count the elements whose sum over the tasks is above 0, less those where it is below.

    Arguments are those of :func:`merge_agreeing`.
    """
    found: int = _functions().balance(
        _pointer(base), _tasks(models, kept, weights), len(models), base.numel()
    )
    return found


def compare(
    base: Tensor, model: Tensor, low: float, high: float
) -> tuple[int, int, NDArray[np.float32], int]:
    """Compare the magnitudes of a task vector with a bracket.

    Returns:
        How many are above; at its upper end; the magnitudes between; how many are at its lower end (0 if that
        is its upper end, too).
    """
    import numpy as np

    between = np.empty(base.numel(), np.float32)
    counts = (ctypes.c_int64 * 3)()
    found = _functions().compare(
        _pointer(base), _pointer(model), base.numel(), low, high, counts, between.ctypes.data
    )
    return counts[0], counts[1], between[:found], counts[2]


def match_gradients(
    base: Tensor,
    models: Sequence[Tensor],
    base_hessian: Tensor,
    hessians: Sequence[Tensor],
    alpha: Sequence[float],
    *,
    delta_0: float,
    kappa: float,
    is_anchored: bool,
) -> tuple[Tensor, list[tuple[float, float]]]:
    """Merge by gradient matching with diagonal Hessians; see :mod:`merging.methods.gradient_matching`.

    Args:
        base: theta_0.
        models: theta_t, of the same shape, as all others.
        base_hessian: H_0, >= 0.
        hessians: H_t, >= 0.
        alpha: scaling factors.
        delta_0: added to H_0; > 0.
        kappa: H_bar is kept at kappa (H_0 + delta_0) or more.
        is_anchored: whether (H_0 + delta_0) / H_bar is part of the weights.

    Returns:
        The merged tensor; and for each task the smallest and largest weight of its difference to the base,
        without alpha (infinity and less for tensors without elements).
    """
    import torch

    out = torch.empty_like(base)
    given = zip(models, hessians, alpha, strict=True)
    tasks = (_Curved * len(models))(
        *(_Curved(_pointer(model), _pointer(its), a, float("inf"), float("-inf")) for model, its, a in given)
    )
    _functions().match_gradients(
        _pointer(base), _pointer(base_hessian), tasks, len(models), delta_0, kappa, is_anchored,
        _pointer(out), base.numel(),
    )  # fmt: skip
    return out, [(task.low, task.high) for task in tasks]


class _Task(ctypes.Structure):
    """``Task`` of fused.c."""

    _fields_ = (
        ("model", ctypes.c_void_p),
        ("num_before", ctypes.c_int64),
        ("end", ctypes.c_float),
        ("value", ctypes.c_float),
        ("key", ctypes.c_char_p),
        ("place", ctypes.c_int64),
        ("limit", ctypes.c_int32),
        ("scale", ctypes.c_float),
        ("weight", ctypes.c_float),
    )


class _Curved(ctypes.Structure):
    """``Curved`` of fused.c."""

    _fields_ = (
        ("model", ctypes.c_void_p),
        ("hessian", ctypes.c_void_p),
        ("alpha", ctypes.c_float),
        ("low", ctypes.c_float),
        ("high", ctypes.c_float),
    )


def _tasks(models: Sequence[Tensor], kept: Sequence[Kept], weights: Sequence[float]) -> ctypes.Array[_Task]:
    tasks = []
    for model, its, weight in zip(models, kept, weights, strict=True):
        key, place, limit = (its.draw.key, its.draw.place, its.draw.limit) if its.draw else (None, 0, 0)
        tasks.append(
            _Task(_pointer(model), its.num_before, its.end, its.value, key, place, limit, its.scale, weight)
        )
    return (_Task * len(tasks))(*tasks)


def _pointer(tensor: Tensor) -> int:
    return tensor.data_ptr()


def _functions() -> ctypes.CDLL:
    library = _library()
    assert library is not None, "is_built() was asked before"
    return library


@cache
def _library() -> ctypes.CDLL | None:
    folder = Path(__file__).parent
    files = [folder / f"_fused{suffix}" for suffix in EXTENSION_SUFFIXES]
    file = next((file for file in files if file.is_file()), None)
    if file is None:
        return None
    library = ctypes.CDLL(str(file))
    pointer, integer, number = ctypes.c_void_p, ctypes.c_int64, ctypes.c_float
    sparse = [pointer, ctypes.POINTER(_Task), integer]
    end = [pointer, integer]
    for name, returned, arguments in (
        ("merge_agreeing", None, [*sparse, ctypes.c_int, number, number, *end]),
        ("balance", integer, [*sparse, integer]),
        ("compare", integer, [pointer, *end, number, number, ctypes.POINTER(integer), pointer]),
        (
            "match_gradients",
            None,
            [pointer, pointer, ctypes.POINTER(_Curved), integer, number, number, ctypes.c_int, *end],
        ),
    ):
        function = getattr(library, name)
        function.restype, function.argtypes = returned, arguments
    return library
