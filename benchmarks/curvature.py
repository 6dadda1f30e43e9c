"""What curvature costs, beside a plain forward and backward pass and beside other ways to get it.

    python benchmarks/curvature.py [--models minilm bert gpt2] [--dtypes fp32 bf16] [--runs 5] [--device cpu]
        [--statistics fisher_mc gram kfac_mc] [--batch-sizes 16 32] [--no-others] [--clock wall] [--json PATH]

Models of the shapes of MiniLM (6 x 384), BERT-base and GPT-2 with a head for 2 labels, random weights, texts
of 128 tokens without padding. Ways, each timed once a round, one after the other in one process, so that a
disturbed machine disturbs all:

plain       forward and backward pass of a batch whose weights ask for gradients; nothing is kept. Its fastest
            batch size is searched first. This is the limit: its weight gradients are one product for a whole
            batch, curvature needs them for each example.
one         the predecessor's way: one example, one backward pass, add ``grad ** 2``
vmap        ``torch.func``: ``vmap`` of ``grad`` over a few examples, squares summed (eager attention: vmap
            has no rule for the fused one)
ours        each of --statistics, at the batch size of plain

dtypes: fp32; bf16: weights and activations in bfloat16 (sums in float32), as checkpoints come today;
autocast, which casts all weights in every pass, is another thing.

On a machine that others use, too, ``--clock processor`` with OMP_NUM_THREADS=1 counts the processor's time of
this process only (threads that wait for each other would count).

Figures are medians of the rounds; ``limit_share`` is the median of the ratios to plain within a round. Peak
memory is that of a process that does nothing else, less what it held before the model was built (on a GPU:
what torch allocated). Rows of --json: ``rows`` are ours, ``others`` the same fields for the other ways.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
import transformers
from merging import hessians
from merging.hessians._factors import FactorSums
from merging.hessians._per_example import SquaredGradients
from torch import Tensor, nn

NUM_TOKENS = 128
NUM_LABELS = 2
NUM_SINGLE = {"minilm": 16, "bert": 8, "gpt2": 8}
"""Examples that ``one`` and ``vmap`` do in a round."""
MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "minilm": (
        "bert",
        {"hidden_size": 384, "num_hidden_layers": 6, "num_attention_heads": 12, "intermediate_size": 1536},
    ),
    "bert": ("bert", {}),
    "gpt2": ("gpt2", {"pad_token_id": 50256}),
}
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
STATISTICS = {"fisher_mc": "diagonal", "gram": "gram", "kfac_mc": "kfac"}
Clock = Callable[[], float]
CLOCKS: dict[str, Clock] = {"wall": time.perf_counter, "processor": time.process_time}
VMAP_CHUNKS = {"minilm": 8, "bert": 4, "gpt2": 4}
"""Examples at a time; more are slower on a CPU (cache), and hold (examples x parameters) numbers."""


class Case:
    """One model in one dtype, and a step of each way: ``step(num_examples)`` returns how many it did."""

    def __init__(self, model: str, dtype: str, device: str) -> None:
        """Build the model with random weights."""
        self.name, self.dtype, self.device = model, dtype, torch.device(device)
        self.model = self._build("sdpa")
        generator = torch.Generator().manual_seed(1)
        self._ids = torch.randint(1000, 30000, (512, NUM_TOKENS), generator=generator).to(self.device)
        self._cotangents = partial(hessians.load("fisher_mc").cotangents, labels=None, num_samples=1, seed=0)

    def step(self, way: str) -> Callable[[int], int]:
        """Return a way, ready to run; it keeps what it sums."""
        if way == "plain":
            return self._plain
        if way == "one":
            return self._one()
        if way == "vmap":
            return self._vmap()
        return self._ours(way)

    def synchronise(self) -> None:
        """Wait for the device."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def _build(self, attention: str) -> nn.Module:
        kind, fields = MODELS[self.name]
        config = transformers.AutoConfig.for_model(kind, num_labels=NUM_LABELS, **fields)
        torch.manual_seed(0)
        model = transformers.AutoModelForSequenceClassification.from_config(
            config, attn_implementation=attention
        )
        return model.to(self.device, DTYPES[self.dtype]).eval()

    def _scores(self, model: Callable[..., Any], batch: Any) -> Tensor:
        scores: Tensor = model(**batch).logits
        return scores

    def _batch(self, num_examples: int) -> dict[str, Tensor]:
        return {"input_ids": self._ids[:num_examples]}  # no mask: vmap has no rule for looking at it

    def _loss(self, scores: Tensor) -> Tensor:
        """Sum over examples of -log p of a label drawn from the model."""
        log_p = scores.float().log_softmax(-1)
        labels = torch.distributions.Categorical(logits=log_p.detach()).sample()
        return nn.functional.nll_loss(log_p, labels, reduction="sum")

    def _plain(self, num_examples: int) -> int:
        self._loss(self._scores(self.model, self._batch(num_examples))).backward()
        self.model.zero_grad(set_to_none=True)
        return num_examples

    def _one(self) -> Callable[[int], int]:
        parameters = list(self.model.parameters())
        sums = [torch.zeros_like(parameter, dtype=torch.float32) for parameter in parameters]

        def step(num_examples: int) -> int:
            for row in self._ids[: min(num_examples, NUM_SINGLE[self.name])]:
                self._loss(self._scores(self.model, {"input_ids": row[None]})).backward()
                for total, parameter in zip(sums, parameters, strict=True):
                    if parameter.grad is not None:
                        total += parameter.grad**2
                self.model.zero_grad(set_to_none=True)
            return min(num_examples, NUM_SINGLE[self.name])

        return step

    def _vmap(self) -> Callable[[int], int]:
        model = self._build("eager")
        parameters = {name: p.detach() for name, p in model.named_parameters()}
        buffers = dict(model.named_buffers())
        sums = {name: torch.zeros_like(p, dtype=torch.float32) for name, p in parameters.items()}

        def loss(values: dict[str, Tensor], row: Tensor, label: Tensor) -> Tensor:
            batch = {"input_ids": row[None]}
            scores = torch.func.functional_call(model, (values, buffers), (), batch).logits
            return nn.functional.cross_entropy(scores.float(), label[None])

        gradients = torch.vmap(torch.func.grad(loss), in_dims=(None, 0, 0))

        def step(num_examples: int) -> int:
            count = min(num_examples, NUM_SINGLE[self.name])
            labels = torch.zeros(count, dtype=torch.long, device=self.device)
            for start in range(0, count, VMAP_CHUNKS[self.name]):
                part = slice(start, min(start + VMAP_CHUNKS[self.name], count))
                for name, gradient in gradients(parameters, self._ids[part], labels[part]).items():
                    sums[name] += gradient.float().square().sum(0)
            return count

        return step

    def _ours(self, estimator: str) -> Callable[[int], int]:
        kind = STATISTICS[estimator]
        sums: SquaredGradients | FactorSums
        if kind == "diagonal":
            sums = SquaredGradients(self.model, self._scores)
        else:
            sums = FactorSums(self.model, self._scores, outputs=kind == "kfac")

        def step(num_examples: int) -> int:
            cotangents = partial(self._cotangents, examples=range(num_examples))
            sums.add(self._batch(num_examples), cotangents)
            return num_examples

        return step


def timed(case: Case, step: Callable[[int], int], num_examples: int, clock: Clock) -> float:
    """Examples per second of one step."""
    case.synchronise()
    start = clock()
    count = step(num_examples)
    case.synchronise()
    return count / (clock() - start)


def best_batch_size(case: Case, sizes: list[int], clock: Clock) -> int:
    """The batch size at which plain is fastest, each tried twice."""
    if len(sizes) == 1:
        return sizes[0]
    plain = case.step("plain")
    plain(min(sizes))
    return max(sizes, key=lambda size: max(timed(case, plain, size, clock) for _ in range(2)))


def measured(
    case: Case, ways: list[str], batch_size: int, runs: int, clock: Clock
) -> dict[str, dict[str, Any]]:
    """Rates of all ways, interleaved: median, and median share of plain."""
    steps = {way: case.step(way) for way in ways}
    for step in steps.values():  # first calls allocate, and ours find out which rules are right
        step(batch_size)
    rates: dict[str, list[float]] = {way: [] for way in ways}
    for _ in range(runs):
        for way, step in steps.items():
            rates[way].append(timed(case, step, batch_size, clock))
    return {
        way: {
            "examples_per_s": round(statistics.median(found), 3),
            "limit_share": round(
                statistics.median(ours / plain for ours, plain in zip(found, rates["plain"], strict=True)),
                4,
            ),
            "all": [round(rate, 3) for rate in found],
        }
        for way, found in rates.items()
    }


def peak_bytes(model: str, dtype: str, way: str, batch_size: int, device: str) -> int:
    """Largest memory of a process of its own that does two steps of a way."""
    command = [sys.executable, __file__, "--peak-of", way, "--models", model, "--dtypes", dtype]
    command += ["--batch-sizes", str(batch_size), "--device", device]
    return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def print_peak(model: str, dtype: str, way: str, batch_size: int, device: str) -> None:
    """What :func:`peak_bytes` runs."""
    before = resident_peak()
    case = Case(model, dtype, device)
    step = case.step(way)
    for _ in range(2):
        step(batch_size)
    case.synchronise()
    on_gpu = case.device.type == "cuda"
    sys.stdout.write(
        str(torch.cuda.max_memory_allocated(case.device) if on_gpu else resident_peak() - before)
    )


def resident_peak() -> int:
    """Bytes that this process has held at most; Linux only."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    raise SystemExit("peak memory is read from /proc/self/status, which this system does not have")


def table(arguments: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Rows, as they are measured."""
    others = [] if arguments.no_others else ["one", "vmap"]
    for model in arguments.models:
        for dtype in arguments.dtypes:
            case = Case(model, dtype, arguments.device)
            clock = CLOCKS[arguments.clock]
            size = best_batch_size(case, arguments.batch_sizes, clock)
            ways = ["plain", *others, *arguments.statistics]
            found = measured(case, ways, size, arguments.runs, clock)
            del case
            for way, figures in found.items():
                yield {
                    "model": model,
                    "dtype": dtype,
                    "statistic": way if way in STATISTICS else "fisher_mc",
                    "way": "ours" if way in STATISTICS else way,
                    "batch_size": {"one": 1, "vmap": VMAP_CHUNKS[model]}.get(way, size),
                    **figures,
                    "peak_bytes": peak_bytes(model, dtype, way, size, arguments.device),
                }


def parser() -> argparse.ArgumentParser:
    """The command line."""
    known = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    known.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    known.add_argument("--dtypes", nargs="+", choices=DTYPES, default=["fp32", "bf16"])
    known.add_argument("--statistics", nargs="+", choices=STATISTICS, default=list(STATISTICS))
    known.add_argument("--batch-sizes", nargs="+", type=int, default=[16, 32], help="tried for plain")
    known.add_argument("--runs", type=int, default=5, help="rounds")
    known.add_argument("--clock", choices=CLOCKS, default="wall")
    known.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    known.add_argument("--no-others", action="store_true", help="leave one and vmap out")
    known.add_argument("--json", type=Path, help="write the rows here")
    known.add_argument("--peak-of", help=argparse.SUPPRESS)
    return known


def main() -> None:
    """Measure and print."""
    arguments = parser().parse_args()
    transformers.utils.logging.set_verbosity_error()
    if arguments.peak_of:
        (model,), (dtype,), (size,) = arguments.models, arguments.dtypes, arguments.batch_sizes
        print_peak(model, dtype, arguments.peak_of, size, arguments.device)
        return
    line = "{:<8} {:<9} {:<6} {:<10} {:>6} {:>12} {:>8} {:>10}"
    head = ("model", "dtype", "way", "statistic", "batch", "examples/s", "of limit", "peak MiB")
    sys.stdout.write(line.format(*head) + "\n")
    rows = []
    for row in table(arguments):
        rows.append(row)
        cells = [row[key] for key in ("model", "dtype", "way", "statistic", "batch_size")]
        cells += [f"{row['examples_per_s']:.2f}", f"{row['limit_share']:.3f}", row["peak_bytes"] >> 20]
        sys.stdout.write(line.format(*cells) + "\n")
        sys.stdout.flush()
        if arguments.json:
            result = {
                "rows": [its for its in rows if its["way"] == "ours"],
                "others": [its for its in rows if its["way"] != "ours"],
                "device": str(arguments.device),
                "clock": arguments.clock,
                "threads": torch.get_num_threads(),
                "torch": torch.__version__,
            }
            arguments.json.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
