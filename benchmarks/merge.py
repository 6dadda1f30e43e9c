"""What a merge costs: seconds, processor seconds and peak memory of a process of its own, for each method.

    python benchmarks/merge.py [--hidden-size 768] [--layers 12] [--tasks 4] [--json PATH]

The default is a classifier of BERT-base's size: 109 million parameters in float32, 438 MB a model. The
authors' scripts need 7.1 s (task arithmetic) and 9.8 s (gradient matching) with 4 tasks on a quiet machine of
2 cores. The first row is the limit: starting Python, importing torch and reading every input once.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

VOCABULARY = 30522


def shapes(hidden_size: int, layers: int) -> dict[str, tuple[int, ...]]:
    """Names and shapes of a BERT-like classifier."""
    found: dict[str, tuple[int, ...]] = {"embeddings.weight": (VOCABULARY, hidden_size)}
    for layer in range(layers):
        for name in ("query", "key", "value", "output"):
            found[f"layer.{layer}.{name}.weight"] = (hidden_size, hidden_size)
        found[f"layer.{layer}.up.weight"] = (4 * hidden_size, hidden_size)
        found[f"layer.{layer}.down.weight"] = (hidden_size, 4 * hidden_size)
    return {**found, "classifier.weight": (2, hidden_size)}


def make(folder: Path, hidden_size: int, layers: int, tasks: int) -> None:
    """Random models and Hessians."""
    import torch
    from merging.checkpoints import TensorInfo, weights_hash, whole_tensors, write_checkpoint
    from merging.hessians.artifact import HessianRecord, write_hessian

    sizes = shapes(hidden_size, layers)
    infos = {name: TensorInfo("F32", shape) for name, shape in sizes.items()}
    for number in range(tasks + 1):
        model, hessian = folder / f"model{number}", folder / f"hessian{number}"
        model.mkdir()
        hessian.mkdir()
        (model / "config.json").write_text(json.dumps({"vocab_size": VOCABULARY}))
        write_checkpoint(model, infos, whole_tensors(lambda name: torch.randn(sizes[name])))
        record = HessianRecord(
            estimator="fisher_exact",
            task_type="sequence_classification",
            num_examples=1,
            num_train_examples=1000,
            model_hash=weights_hash(model),
            model=str(model),
            data=None,
            seed=0,
        )
        write_hessian(hessian, {name: torch.rand(shape) for name, shape in sizes.items()}, record)


def files(folder: Path, inputs: tuple[str, ...]) -> Iterator[Path]:
    """Everything that a method with these inputs reads."""
    yield from folder.glob("model[1-9]*/*.safetensors")
    if "base" in inputs:
        yield from folder.glob("model0/*.safetensors")
    if "hessians" in inputs:
        yield from folder.glob("hessian[1-9]*/*.safetensors")
    if "base_hessian" in inputs:
        yield from folder.glob("hessian0/*.safetensors")


def run(folder: Path, name: str, tasks: int) -> dict[str, Any]:
    """One merge in this process, or the limit."""
    start = time.perf_counter()
    if name == "limit":
        import torch  # noqa: F401

        for path in files(folder, ("base", "hessians", "base_hessian")):
            with path.open("rb", buffering=0) as file:
                while file.read(8 * 2**20):
                    pass
    else:
        from merging import methods
        from merging.streaming import merge_checkpoints

        names = [str(number) for number in range(1, tasks + 1)]
        offer = {
            "base_hessian": folder / "hessian0",
            "hessians": {task: folder / f"hessian{task}" for task in names},
        }
        merge_checkpoints(
            method=name,
            options={},
            base=folder / "model0",
            models={task: folder / f"model{task}" for task in names},
            extras={key: offer[key] for key in methods.inputs(name) if key in offer},
            out=folder / "out",
        )
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return {
        "what": name,
        "seconds": round(time.perf_counter() - start, 2),
        "cpu_seconds": round(usage.ru_utime + usage.ru_stime, 2),
        "peak_mib": usage.ru_maxrss // 1024,
    }


def main() -> None:
    """Make the inputs, run every method in a process of its own, and print a row for each."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--hidden-size", type=int, default=768)
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument("--tasks", type=int, default=4)
    parser.add_argument("--json", type=Path, help="also write the rows here")
    parser.add_argument("--child", nargs=2, metavar=("FOLDER", "WHAT"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    sizes = [f"--hidden-size={options.hidden_size}", f"--layers={options.layers}", f"--tasks={options.tasks}"]
    if options.child:
        folder, what = Path(options.child[0]), options.child[1]
        if what == "make":
            make(folder, options.hidden_size, options.layers, options.tasks)
        else:
            print(json.dumps(run(folder, what, options.tasks)))  # noqa: T201
        return

    from merging import methods

    with tempfile.TemporaryDirectory() as folder:
        rows = []
        for what in ("make", "limit", *methods.names()):
            command = [sys.executable, __file__, *sizes, "--child", folder, what]
            done = subprocess.run(command, check=True, capture_output=True, text=True)
            if what == "make":
                continue
            row = json.loads(done.stdout)
            rows.append(row)
            figures = f"{row['seconds']:7} s {row['cpu_seconds']:7} cpu s {row['peak_mib']:6} MiB"
            print(f"{what:20} {figures}", flush=True)  # noqa: T201
    if options.json:
        options.json.write_text(json.dumps(rows, indent=2) + "\n")


if __name__ == "__main__":
    main()
