"""Random numbers that depend on where an element is, not on when it is merged.

The draw of an element is a function of (seed, task, name of the parameter, index of the element): the words
of the counter-based generator Philox (Salmon et al., SC 2011), keyed by a hash of the first three, two
elements a word. So pieces, their order, threads and devices make no difference, and nothing touches a global
generator.
"""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING

from merging.kernels import Draw

if TYPE_CHECKING:
    from torch import Tensor

    from merging.methods._seam import Parameter

_DRAWS_PER_COUNT = 8  # Philox 4x64: a step of the counter gives four words of 64 bits


def draws(num_elements: int, *, seed: int, task: str, parameter: Parameter) -> Tensor:
    """Whole numbers, uniform over all of int32, for elements ``parameter.start`` and after; on the CPU."""
    import numpy as np
    import torch

    key = _key(seed, task, parameter)
    count, skip = divmod(parameter.start, _DRAWS_PER_COUNT)
    words = np.random.Philox(key=np.frombuffer(key, "<u8").astype(np.uint64), counter=count)
    # The words of random_raw, but other threads may go on meanwhile.
    drawn = np.random.Generator(words).integers(0, 2**64, (skip + num_elements + 1) // 2, np.uint64)
    return torch.from_numpy(drawn.view(np.int32))[skip : skip + num_elements]


def bernoulli(keep: float | Tensor, like: Tensor, *, seed: int, task: str, parameter: Parameter) -> Tensor:
    """1 with probability ``keep``, else 0, for each element of a piece.

    Args:
        keep: one probability for all, or one for each element, of the shape of ``like``; 0..1.
        like: gives shape, dtype and device of the result.
        seed: of the merge.
        task: whose draws.
        parameter: name, and first element of the piece.

    Returns:
        Ones and zeros. The exact probability is the multiple of 2^-32 at or just above ``keep``.
    """
    import torch

    drawn = draws(like.numel(), seed=seed, task=task, parameter=parameter).reshape(like.shape)
    if isinstance(keep, torch.Tensor):
        limits = keep.double() * 2.0**32 - 2.0**31
        return drawn.to(limits).lt_(limits).to(like)
    limit = _limit(keep)
    if limit == 2**31:  # no int32 is above all int32
        return torch.ones_like(like)
    return drawn.lt_(limit).to(like)


def draw(keep: float, *, seed: int, task: str, parameter: Parameter) -> Draw | None:
    """What :func:`bernoulli` draws, for :mod:`merging.kernels`; None: everything is kept."""
    limit = _limit(keep)
    return None if limit == 2**31 else Draw(_key(seed, task, parameter), parameter.start, limit)


def _key(seed: int, task: str, parameter: Parameter) -> bytes:
    return hashlib.blake2b(json.dumps([seed, task, parameter.name]).encode(), digest_size=16).digest()


def _limit(keep: float) -> int:
    """What draws less is kept."""
    return -int(-keep * 2**32 // 1) - 2**31
