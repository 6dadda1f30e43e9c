"""What merging folders costs, beside what reading and writing them costs, and beside mergekit.

    python benchmarks/merge.py [--mergekit PYTHON] [--runs 3] [--layers 22] [--folder FOLDER] [--json PATH]

Merges a base and 4 fine-tuned models of Llama's shape (width 1280, 22 layers, MLP 3456, vocabulary 32000,
head not tied: 518 M parameters; bfloat16, files of at most 500 MB; random, fine-tuned = base + N(0, 0.001)),
for gradient_matching with 5 diagonal Hessians in float32 besides. Each merge is a process of its own. A round
runs start-up, limit, our merge and mergekit's one after the other, so that a disturbed machine disturbs all.

seconds        of the whole process, Python's start and imports included
merge          seconds less those of a process that only starts and imports torch ("start-up")
limit          reading every input of the method from the page cache and writing the output, nothing else;
               inside of its process, with one thread and blocks of 8 MiB
peak, anon     largest memory of the process and its children, what they share counted once, and of that
               anonymous memory (sampled every 200 ms), in MiB

Everything is the median of the rounds. mergekit is run with the interpreter of an environment that has it.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

WIDTH, HEADS, MLP, VOCABULARY = 1280, 20, 3456, 32000
TASKS = ("a", "b", "c", "d")
SHARD_BYTES = 500 * 10**6
NUM_TRAIN_EXAMPLES = 1000
_BLOCK = 8 * 2**20


@dataclass(frozen=True)
class Case:
    """One row: the same merge, ours and mergekit's."""

    method: str
    options: Mapping[str, Any]
    tasks: Sequence[str] = TASKS
    mergekit: Mapping[str, Any] | None = None
    """The head of mergekit's YAML; None: it has no such method."""
    weights: Mapping[str, Any] | None = None
    """Parameters of each model there."""


CASES = {
    "average": Case("average", {}, mergekit={"merge_method": "linear"}, weights={"weight": 1.0}),
    "task_arithmetic": Case(
        "task_arithmetic",
        {"scaling_factor": 0.3},
        mergekit={"merge_method": "task_arithmetic", "parameters": {"normalize": False}},
        weights={"weight": 0.3},
    ),
    "ties": Case(
        "ties",
        {"density": 0.2, "flavour": "per_tensor"},
        mergekit={"merge_method": "ties", "parameters": {"normalize": True}},
        weights={"weight": 1.0, "density": 0.2},
    ),
    "ties_global": Case("ties", {"density": 0.2}),
    "dare_ties": Case(
        "dare_ties",
        {"density": 0.2},
        mergekit={"merge_method": "dare_ties", "parameters": {"normalize": True}},
        weights={"weight": 1.0, "density": 0.2},
    ),
    "slerp": Case(
        "slerp", {"t": 0.5}, tasks=("a",), mergekit={"merge_method": "slerp", "parameters": {"t": 0.5}}
    ),
    "gradient_matching": Case("gradient_matching", {}),
}


def shapes(layers: int) -> dict[str, tuple[int, ...]]:
    """Names and shapes of a Llama."""
    found: dict[str, tuple[int, ...]] = {
        "model.embed_tokens.weight": (VOCABULARY, WIDTH),
        "model.norm.weight": (WIDTH,),
        "lm_head.weight": (VOCABULARY, WIDTH),
    }
    for layer in range(layers):
        prefix = f"model.layers.{layer}"
        for name in ("q", "k", "v", "o"):
            found[f"{prefix}.self_attn.{name}_proj.weight"] = (WIDTH, WIDTH)
        found[f"{prefix}.mlp.gate_proj.weight"] = (MLP, WIDTH)
        found[f"{prefix}.mlp.up_proj.weight"] = (MLP, WIDTH)
        found[f"{prefix}.mlp.down_proj.weight"] = (WIDTH, MLP)
        found[f"{prefix}.input_layernorm.weight"] = (WIDTH,)
        found[f"{prefix}.post_attention_layernorm.weight"] = (WIDTH,)
    return found


def make(folder: Path, layers: int, *, with_hessians: bool) -> None:
    """Write what is missing of the random models and Hessians."""
    import torch
    from merging.files.checkpoints import (
        TensorInfo,
        open_checkpoint,
        weights_hash,
        whole_tensors,
        write_checkpoint,
    )

    sizes = shapes(layers)
    infos = {name: TensorInfo("BF16", shape) for name, shape in sizes.items()}
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": WIDTH,
        "intermediate_size": MLP,
        "num_attention_heads": HEADS,
        "num_key_value_heads": HEADS,
        "num_hidden_layers": layers,
        "vocab_size": VOCABULARY,
        "tie_word_embeddings": False,
        "torch_dtype": "bfloat16",
    }
    torch.manual_seed(0)
    for label in ("base", *TASKS):
        model = folder / label
        if not (model / "config.json").exists():
            model.mkdir(parents=True, exist_ok=True)
            base = None if label == "base" else open_checkpoint(folder / "base", label="base")

            def value(name: str, base: Any = base) -> Any:
                if base is None:
                    return torch.randn(sizes[name]).mul_(0.02).bfloat16()
                return torch.randn(sizes[name]).mul_(0.001).add_(base.read(name)).bfloat16()

            write_checkpoint(model, infos, whole_tensors(value), max_shard_bytes=SHARD_BYTES)
            (model / "config.json").write_text(json.dumps(config, indent=2))  # last: says that it is complete
        hessian = folder / f"hessian_{label}"
        if with_hessians and not (hessian / "hessian.json").exists():
            hessian.mkdir(exist_ok=True)
            make_hessian(hessian, sizes, weights_hash(model))


def make_hessian(folder: Path, sizes: Mapping[str, tuple[int, ...]], model_hash: str) -> None:
    """Write a random diagonal Hessian."""
    import torch
    from merging.files.checkpoints import TensorInfo, whole_tensors, write_checkpoint
    from merging.hessians.artifact import TENSORS_NAME

    infos = {name: TensorInfo("F32", shape) for name, shape in sizes.items()}
    values = whole_tensors(lambda name: torch.rand(sizes[name]).square_())
    write_checkpoint(folder, infos, values, max_shard_bytes=10**12)
    (folder / "model.safetensors").rename(folder / TENSORS_NAME)
    record = {
        "estimator": "fisher_exact",
        "task_type": "sequence_classification",
        "num_examples": NUM_TRAIN_EXAMPLES,
        "num_train_examples": NUM_TRAIN_EXAMPLES,
        "model_hash": model_hash,
        "model": "",
        "data": None,
        "seed": 0,
    }
    (folder / "hessian.json").write_text(json.dumps(record))


def methods_inputs(method: str) -> tuple[str, ...]:
    """What a method is given."""
    from merging import methods

    return methods.inputs(method)


def inputs(folder: Path, case: Case) -> list[Path]:
    """Every file that a merge has to read."""
    needed = methods_inputs(case.method)
    labels = [*(["base"] if "base" in needed else []), *case.tasks]
    if "base_hessian" in needed:
        labels.append("hessian_base")
    if "hessians" in needed:
        labels += [f"hessian_{task}" for task in case.tasks]
    return [file for label in labels for file in sorted((folder / label).glob("*.safetensors"))]


def run_limit(files: Sequence[Path], out: Path, num_bytes: int) -> float:
    """Seconds for reading all files and writing as much as the output holds."""
    buffer = bytearray(_BLOCK)
    start = time.perf_counter()
    for file in files:
        with file.open("rb", buffering=0) as stream:
            while stream.readinto(buffer):
                pass
    out.mkdir()
    left, number = num_bytes, 0
    while left:  # in files of the inputs' size
        number += 1
        with (out / f"{number}.bin").open("wb", buffering=0) as stream:
            room = min(left, SHARD_BYTES)
            left -= room
            while room:
                room -= stream.write(memoryview(buffer)[: min(room, _BLOCK)])
    return time.perf_counter() - start


def run_merge(folder: Path, case: Case, out: Path) -> None:
    """Our merge, in this process."""
    from merging import methods
    from merging.merge.streaming import merge_checkpoints

    offer = {
        "base_hessian": folder / "hessian_base",
        "hessians": {task: folder / f"hessian_{task}" for task in case.tasks},
    }
    merge_checkpoints(
        method=case.method,
        options=case.options,
        base=folder / "base",
        models={task: folder / task for task in case.tasks},
        extras={key: offer[key] for key in methods.inputs(case.method) if key in offer},
        out=out,
        output={"max_shard_size": f"{SHARD_BYTES}B"},
    )


def mergekit_config(folder: Path, case: Case) -> str:
    """The same merge in mergekit's language; JSON is YAML."""
    assert case.mergekit is not None
    config: dict[str, Any] = {**case.mergekit, "dtype": "bfloat16"}
    models = [{"model": str(folder / task), "parameters": dict(case.weights or {})} for task in case.tasks]
    if case.method == "slerp":
        models.insert(0, {"model": str(folder / "base")})
    if case.method != "average":
        config["base_model"] = str(folder / "base")
    return json.dumps(config | {"models": models})


def memory_of(pid: int) -> dict[str, int]:
    """KiB that a process and its children hold, what they share counted once; 0 for a process that ended."""
    total = {"Pss:": 0, "Pss_Anon:": 0}
    try:
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            key, *rest = line.split()
            if key in total:
                total[key] += int(rest[0])
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except (FileNotFoundError, ProcessLookupError):
        return total
    for child in children:
        for key, value in memory_of(int(child)).items():
            total[key] += value
    return total


def measured(command: Sequence[str]) -> dict[str, Any]:
    """Run a process: whole seconds, peak memory in bytes, what it printed."""
    start = time.perf_counter()
    with tempfile.TemporaryFile() as output:
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT)
        peak = anon = 0
        for tick in itertools.count():
            if tick % 20 == 0:  # to look takes a few ms of a processor that the merge could use
                held = memory_of(process.pid)
                peak, anon = max(peak, held["Pss:"]), max(anon, held["Pss_Anon:"])
            done, status, usage = os.wait4(process.pid, os.WNOHANG)
            if done:
                break
            time.sleep(0.01)
        seconds = time.perf_counter() - start
        process.returncode = os.waitstatus_to_exitcode(status)
        output.seek(0)
        printed = output.read().decode()
    if process.returncode:
        raise SystemExit(f"{' '.join(command)} failed:\n{printed[-3000:]}")
    return {
        "seconds": seconds,
        "peak": max(peak, usage.ru_maxrss) * 1024,
        "anon": anon * 1024,
        "cpu": usage.ru_utime + usage.ru_stime,
        "printed": printed,
    }


def rounds(
    folder: Path, name: str, runs: int, mergekit: str | None, scratch: Path
) -> Iterator[dict[str, Any]]:
    """Measure one row ``runs`` times."""
    case, child = CASES[name], [sys.executable, __file__, "--child", str(folder), name]
    out = scratch / "out"
    remove = ["rm", "-rf", str(out)]
    for number in range(runs):
        found = {"startup": measured([sys.executable, "-c", "import torch"])}
        for what in ("limit", "merge"):
            found[what] = measured([*child, what, str(out)])
            subprocess.run(remove, check=True)
        if mergekit and case.mergekit is not None:
            config = scratch / "mergekit.yml"
            config.write_text(mergekit_config(folder, case))
            command = [mergekit, "-m", "mergekit.scripts.run_yaml", str(config), str(out)]
            found["mergekit"] = measured([*command, "--no-copy-tokenizer", f"--out-shard-size={SHARD_BYTES}"])
            subprocess.run(remove, check=True)
        limit = float(found["limit"]["printed"].split()[-1])
        yield {
            "round": number,
            "seconds": found["merge"]["seconds"],
            "merge_seconds": found["merge"]["seconds"] - found["startup"]["seconds"],
            "cpu_seconds": found["merge"]["cpu"],
            "startup_seconds": found["startup"]["seconds"],
            "limit_seconds": limit,
            "peak_bytes": found["merge"]["peak"],
            "anon_bytes": found["merge"]["anon"],
            "mergekit_seconds": found["mergekit"]["seconds"] if "mergekit" in found else None,
            "mergekit_peak_bytes": found["mergekit"]["peak"] if "mergekit" in found else None,
            "mergekit_anon_bytes": found["mergekit"]["anon"] if "mergekit" in found else None,
        }


def row(name: str, found: Sequence[Mapping[str, Any]], num_bytes: int) -> dict[str, Any]:
    """Medians of the rounds of a row."""
    middle = {
        key: None if value is None else statistics.median(its[key] for its in found)
        for key, value in found[0].items()
        if key != "round"
    }
    return {
        "method": name,
        **middle,
        "limit_ratio": middle["merge_seconds"] / middle["limit_seconds"],
        "gb_per_second": num_bytes / 10**9 / middle["seconds"],
    }


def shown(row: Mapping[str, Any]) -> str:
    """One line of the table."""
    text = (
        f"{row['method']:18} {row['seconds']:7.2f} {row['startup_seconds']:8.2f} {row['merge_seconds']:7.2f} "
        f"{row['limit_seconds']:7.2f} {row['limit_ratio']:6.2f} {row['gb_per_second']:6.2f} "
        f"{mib(row['peak_bytes']):6} {mib(row['anon_bytes']):6}"
    )
    if row["mergekit_seconds"] is None:
        return text
    faster = row["mergekit_seconds"] / row["seconds"]
    memory = row["peak_bytes"] / row["mergekit_peak_bytes"]
    return text + (
        f" {row['mergekit_seconds']:9.2f} {mib(row['mergekit_peak_bytes']):6} {faster:6.1f}x {memory:6.2f}"
    )


def mib(num_bytes: float) -> int:
    """Bytes in MiB."""
    return round(num_bytes / 2**20)


def main() -> None:
    """Make the inputs, measure every row, print and write the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--mergekit", metavar="PYTHON", help="interpreter of an environment with mergekit")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--layers", type=int, default=22)
    parser.add_argument("--methods", nargs="+", choices=CASES, default=list(CASES), metavar="NAME")
    parser.add_argument("--folder", type=Path, help="where the inputs lie, or are made (default: temporary)")
    parser.add_argument("--json", type=Path, help="also write the rows here")
    parser.add_argument("--child", nargs=4, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        folder, case, what, out = (
            Path(options.child[0]), CASES[options.child[1]], options.child[2], Path(options.child[3])
        )  # fmt: skip
        if what == "make":
            make(folder, options.layers, with_hessians="hessians" in methods_inputs(case.method))
        elif what == "merge":
            run_merge(folder, case, out)
        else:
            num_bytes = sum(file.stat().st_size for file in (folder / "base").glob("*.safetensors"))
            print(run_limit(inputs(folder, case), out, num_bytes))  # noqa: T201
        return

    with tempfile.TemporaryDirectory() as temporary:
        folder = (options.folder or Path(temporary)).resolve() / f"layers{options.layers}"
        for name in options.methods:  # in processes of their own: this one's memory counts as its children's
            child = ["--child", str(folder), name, "make", ""]
            subprocess.run([sys.executable, __file__, f"--layers={options.layers}", *child], check=True)
        output_bytes = sum(file.stat().st_size for file in (folder / "base").glob("*.safetensors"))
        titles = f"{'method':18} seconds start-up   merge   limit  ratio   GB/s   peak   anon"
        print(titles + (" |mergekit   peak  faster memory" if options.mergekit else ""))  # noqa: T201
        rows = []
        for name in options.methods:
            with tempfile.TemporaryDirectory(dir=folder) as scratch:
                found = list(rounds(folder, name, options.runs, options.mergekit, Path(scratch)))
            num_bytes = output_bytes + sum(file.stat().st_size for file in inputs(folder, CASES[name]))
            rows.append(row(name, found, num_bytes))
            print(shown(rows[-1]), flush=True)  # noqa: T201
    if options.json:
        options.json.write_text(json.dumps({"rows": rows}, indent=2) + "\n")


if __name__ == "__main__":
    main()
