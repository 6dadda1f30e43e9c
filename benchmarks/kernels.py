"""What the fused kernels save: merge functions of one piece with them and with torch, side by side.

    python benchmarks/kernels.py [--runs 9] [--tasks 4]

Nanoseconds of the processor for each element of the result, in one thread, for a piece of the engine's size:
base, fine-tuned models (base + N(0, 0.001)) and, for gradient_matching, their diagonal Hessians, float32 in
the cache. Medians of the rounds; in a round both ways run one after the other. Reading, conversion, writing
are not in it (see merge.py). Checked on the way: both give the same numbers.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import torch
from merging import kernels
from merging.merge.cost import PIECE
from merging.methods import dare_ties, gradient_matching, ties
from merging.methods._dare import Measure
from merging.methods._seam import Parameter
from merging.methods._thresholds import Cut
from torch import Tensor

REPEATS = 4


def cases(num_tasks: int) -> dict[str, Callable[[], Tensor]]:
    """A merge of one piece for each method."""
    generator = torch.Generator().manual_seed(0)
    base = torch.randn(PIECE, generator=generator)
    tasks = [str(number) for number in range(num_tasks)]
    models = {task: base + 0.001 * torch.randn(PIECE, generator=generator) for task in tasks}
    hessians = {task: torch.rand(PIECE, generator=generator) for task in tasks}
    where = Parameter("weight", (PIECE,), size=PIECE)
    trim = ties.Options(flavour="per_tensor")
    cuts = ties.Measure({task: Cut(0.00128) for task in tasks}, {}, {})  # a fifth of N(0, 0.001) is above
    drop, nothing = dare_ties.Options(density=0.2), Measure({}, {})
    matching = gradient_matching.Options()
    prior = torch.rand(PIECE, generator=generator)
    return {
        "ties": lambda: ties.merge(base, models, trim, None, cuts, where),
        "dare_ties": lambda: dare_ties.merge(base, models, drop, nothing, where),
        "gradient_matching": lambda: gradient_matching.merge(base, models, prior, hessians, matching),
    }


def nanoseconds(merge: Callable[[], Any]) -> float:
    """Of the processor, for an element."""
    start = time.thread_time_ns()
    for _ in range(REPEATS):
        merge()
    return (time.thread_time_ns() - start) / REPEATS / PIECE


def main() -> None:
    """Measure and print."""
    known = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    known.add_argument("--runs", type=int, default=9, help="rounds")
    known.add_argument("--tasks", type=int, default=4)
    arguments = known.parse_args()
    if not kernels.is_built():
        raise SystemExit("the kernels are not built: there was no C compiler when the package was installed")
    torch.set_num_threads(1)
    line = "{:<18} {:>9} {:>9} {:>7}\n"
    sys.stdout.write(line.format("method", "torch ns", "fused ns", "faster"))
    fused = kernels.can_fuse
    for method, merge in cases(arguments.tasks).items():
        found: dict[str, list[float]] = {"torch": [], "fused": []}
        results = {}
        for _ in range(arguments.runs):
            for way, can_fuse in (("torch", lambda *tensors: False), ("fused", fused)):
                kernels.can_fuse = can_fuse
                results[way] = merge()
                found[way].append(nanoseconds(merge))
        if not torch.equal(results["torch"], results["fused"]):
            raise SystemExit(f"{method}: the two ways differ")
        slow, fast = (statistics.median(found[way]) for way in ("torch", "fused"))
        sys.stdout.write(line.format(method, f"{slow:.2f}", f"{fast:.2f}", f"{slow / fast:.1f}x"))


if __name__ == "__main__":
    main()
