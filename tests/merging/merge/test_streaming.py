import json
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from merging import methods
from merging.errors import CheckpointError, DiskSpaceError, OptionError
from merging.files import checkpoints
from merging.files.checkpoints import weights_hash
from merging.merge import devices, tensor_merge
from merging.merge.cost import PROCESS_BYTES, Cost, from_headers
from merging.merge.devices import Gpu
from merging.merge.streaming import merge_checkpoints, merge_tensors, open_merge
from safetensors.torch import load_file
from torch import Tensor
from torch.testing import assert_close

WriteModel = Callable[..., Path]
WriteHessian = Callable[..., Path]
Random = Callable[..., dict[str, Tensor]]
TASKS = ("a", "b")


def needs_folders_made_here(method: str) -> bool:
    """Models and diagonal Hessians; what other statistics hold is tested beside the methods."""
    required = methods.required_inputs(method, methods.load(method).Options())
    return {"base", "models", "base_hessian", "hessians"}.issuperset(required)


METHODS = [method for method in methods.names() if needs_folders_made_here(method)]


def tasks_of(method: str) -> tuple[str, ...]:
    """As many tasks as the method takes."""
    _, most = getattr(methods.load(method), "NUM_MODELS", (1, None))
    return TASKS[:most]


class Setup:
    """A base, two models and their Hessians, as folders and as tensors."""

    def __init__(
        self, write_model: WriteModel, write_hessian_of: WriteHessian, random_tensors: Random, **options: Any
    ):
        dtype = options.pop("dtype", torch.float32)
        names = ("base", *TASKS)
        self.tensors = {name: random_tensors(seed, dtype=dtype) for seed, name in enumerate(names)}
        self.folders = {name: write_model(name, its, **options) for name, its in self.tensors.items()}
        self.curvature = {
            name: {key: its.float().square() for key, its in random_tensors(10 + seed).items()}
            for seed, name in enumerate(names)
        }
        self.sizes = {"base": 7, "a": 20, "b": 30}
        self.hessians = {
            name: write_hessian_of(self.folders[name], its, num_train_examples=self.sizes[name])
            for name, its in self.curvature.items()
        }

    def on_disk(self, method: str) -> dict[str, Any]:
        """Arguments of ``merge_checkpoints``."""
        offer: dict[str, Any] = {
            "base_hessian": self.hessians["base"],
            "hessians": {task: self.hessians[task] for task in TASKS},
        }
        return {
            "method": method,
            "options": {},
            "base": self.folders["base"],
            "models": {task: self.folders[task] for task in tasks_of(method)},
            "extras": {key: offer[key] for key in methods.inputs(method) if key in offer},
        }

    def in_memory(self, method: str) -> dict[str, Any]:
        """Arguments of ``merge_tensors``."""
        scaled = {
            name: {key: self.sizes[name] * its for key, its in tensors.items()}
            for name, tensors in self.curvature.items()
        }
        offer: dict[str, Any] = {
            "base_hessian": scaled["base"],
            "hessians": {task: scaled[task] for task in TASKS},
        }
        return {
            "method": method,
            "options": {},
            "base": self.tensors["base"],
            "models": {task: self.tensors[task] for task in tasks_of(method)},
            "extras": {key: offer[key] for key in methods.inputs(method) if key in offer},
        }


@pytest.fixture
def setup(write_model: WriteModel, write_hessian_of: WriteHessian, random_tensors: Random) -> Setup:
    return Setup(write_model, write_hessian_of, random_tensors)


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "out"


def read(folder: Path) -> dict[str, Tensor]:
    return {
        name: its for file in sorted(folder.glob("*.safetensors")) for name, its in load_file(file).items()
    }


def record(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "merge.json").read_text())
    return found


# --- numbers ---


@pytest.mark.parametrize(
    ("dtype", "max_shard_bytes"), [(torch.float32, 10**9), (torch.bfloat16, 60)], ids=["float32", "bfloat16"]
)
@pytest.mark.parametrize("method", METHODS)
def test_streamed_is_in_memory_bit_for_bit(
    write_model: WriteModel,
    write_hessian_of: WriteHessian,
    random_tensors: Random,
    out: Path,
    method: str,
    dtype: torch.dtype,
    max_shard_bytes: int,
) -> None:
    setup = Setup(write_model, write_hessian_of, random_tensors, dtype=dtype, max_shard_bytes=max_shard_bytes)
    merge_checkpoints(**setup.on_disk(method), out=out)
    expected = merge_tensors(**setup.in_memory(method))
    merged = read(out)
    assert merged.keys() == expected.keys() == setup.tensors["base"].keys()
    for name, tensor in merged.items():
        assert tensor.dtype == dtype
        assert torch.equal(tensor, expected[name])


@pytest.mark.parametrize("method", METHODS)
def test_bfloat16_is_computed_in_float32(
    write_model: WriteModel, write_hessian_of: WriteHessian, random_tensors: Random, method: str
) -> None:
    call = Setup(write_model, write_hessian_of, random_tensors, dtype=torch.bfloat16).in_memory(method)
    rounded = merge_tensors(**call)
    call["base"] = {name: its.float() for name, its in call["base"].items()}
    call["models"] = {
        task: {name: its.float() for name, its in model.items()} for task, model in call["models"].items()
    }
    for name, tensor in merge_tensors(**call).items():
        assert torch.equal(rounded[name], tensor.bfloat16())


def test_task_arithmetic(setup: Setup, out: Path) -> None:
    call = setup.on_disk("task_arithmetic") | {"options": {"scaling_factor": {"a": 0.5, "b": -1.0}}}
    merge_checkpoints(**call, out=out)
    base, a, b = setup.tensors.values()
    for name, tensor in read(out).items():
        assert_close(tensor, base[name] + 0.5 * (a[name] - base[name]) - (b[name] - base[name]))


def test_hessians_are_multiplied_by_the_size_of_the_training_set(setup: Setup, out: Path) -> None:
    """Unless another factor is given."""
    call = setup.on_disk("gradient_matching")
    call["extras"]["hessians"] = {
        "a": setup.hessians["a"],
        "b": {"hessian": setup.hessians["b"], "scale": 5.0},
    }
    merge_checkpoints(**call, out=out)
    base, a, b = setup.tensors.values()
    h_0, h_a, h_b = setup.curvature.values()
    for name, tensor in read(out).items():
        prior, a_scaled, b_scaled = 7 * h_0[name] + 1e-12, 20 * h_a[name], 5 * h_b[name]
        pull = (prior + a_scaled) * (a[name] - base[name]) + (prior + b_scaled) * (b[name] - base[name])
        assert_close(tensor, base[name] + pull / (prior + a_scaled + b_scaled), rtol=1e-4, atol=1e-5)
    sources = record(out)["sources"]
    assert sources["hessians['a']"]["scale"] == 20
    assert sources["hessians['b']"]["scale"] == 5


def test_norm_of_the_whole_model(setup: Setup) -> None:
    """Streaming feeds ``summarize`` with every merged parameter, and only with those."""
    call = setup.in_memory("fisher")
    call["options"] = {"normalize": "model", "floor": 0.0}
    call["policy"] = {"exclude": ["classifier.*"]}
    merged = merge_tensors(**call)
    f, g = call["extras"]["hessians"].values()
    kept = [name for name in f if not name.startswith("classifier")]
    norms = [torch.cat([its[name].reshape(-1) for name in kept]).norm() for its in (f, g)]
    for name in kept:
        left, right = f[name] / norms[0], g[name] / norms[1]
        expected = (left * call["models"]["a"][name] + right * call["models"]["b"][name]) / (left + right)
        assert_close(merged[name], expected)


def test_removal_guard_is_of_the_whole_model(setup: Setup, out: Path) -> None:
    call = setup.on_disk("gradient_matching") | {"options": {"scaling_factor": -1.0}}
    with pytest.raises(OptionError, match="more than half"):
        merge_checkpoints(**call, out=out)
    assert not out.exists()
    call["options"]["delta_0"] = 30.0
    merge_checkpoints(**call, out=out)
    assert 0 < record(out)["summary"]["floored_fraction"] < 0.5


# --- the folder ---


def test_complete_folder_and_nothing_stale(setup: Setup, out: Path) -> None:
    base = setup.folders["base"]
    kept = ("tokenizer.json", "vocab.txt", "preprocessor_config.json", "generation_config.json")
    for name in kept:
        (base / name).write_text("{}")
    for name in ("pytorch_model.bin", "optimizer.pt", "trainer_state.json", "training_args.bin", "README.md"):
        (base / name).write_text("stale")
    merge_checkpoints(**setup.on_disk("average"), out=out)
    expected = {"README.md", "config.json", "merge.json", "model.safetensors", *kept}
    assert {path.name for path in out.iterdir()} == expected
    assert (out / "config.json").read_text() == (base / "config.json").read_text()
    assert "stale" not in (out / "README.md").read_text()


def test_transformers_loads_it(tmp_path: Path, out: Path) -> None:
    from transformers import BertConfig, BertForSequenceClassification

    sizes = {"hidden_size": 8, "num_attention_heads": 2, "num_hidden_layers": 1, "intermediate_size": 12}
    config = BertConfig(vocab_size=15, max_position_embeddings=9, **sizes)
    models = {}
    for seed, name in enumerate(("base", *TASKS)):
        torch.manual_seed(seed)
        models[name] = BertForSequenceClassification(config)
        models[name].save_pretrained(tmp_path / name)
    merge_checkpoints(
        method="task_arithmetic",
        options={"scaling_factor": 0.5},
        base=tmp_path / "base",
        models={task: tmp_path / task for task in TASKS},
        extras={},
        out=out,
    )
    merged = BertForSequenceClassification.from_pretrained(out)
    base, a, b = (dict(model.named_parameters()) for model in models.values())
    for name, parameter in merged.named_parameters():
        assert_close(parameter, base[name] + 0.5 * (a[name] + b[name] - 2 * base[name]))


def test_record(setup: Setup, out: Path) -> None:
    merge_checkpoints(**setup.on_disk("gradient_matching") | {"policy": {"exclude": ["scale"]}}, out=out)
    found = record(out)
    assert found["method"] == "gradient_matching"
    assert found["options"]["scaling_factor"] == 1.0, "defaults are written out"
    assert found["policy"]["exclude"] == ["scale"]
    assert found["tasks"] == ["a", "b"]
    assert found["tensors"]["copied"] == ["scale"]
    assert "layer.weight" in found["tensors"]["merged"]
    assert found["num_parameters"] == {"merged": 76, "heads": 0, "buffers": 0, "copied": 1, "tied": 0}
    assert found["fraction_without_curvature"] == 0
    assert found["summary"] == {"floored_fraction": 0.0}
    assert found["versions"].keys() >= {"python", "torch", "model-merging"}
    sources = found["sources"]
    assert list(sources) == [
        "base",
        "models['a']",
        "models['b']",
        "base_hessian",
        "hessians['a']",
        "hessians['b']",
    ]
    assert sources["models['a']"] == {
        "folder": str(setup.folders["a"]),
        "weights_hash": weights_hash(setup.folders["a"]),
    }
    assert sources["base_hessian"]["estimator"] == "fisher_exact"


def test_combination_weights(setup: Setup, out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Their range over the whole model, by task, however many pieces there are."""
    monkeypatch.setattr(tensor_merge, "PIECE", 3)
    merge_checkpoints(**setup.on_disk("fisher") | {"options": {"floor": 0.0}}, out=out)
    a, b = (
        setup.sizes[task] * torch.cat([its.reshape(-1) for its in setup.curvature[task].values()])
        for task in TASKS
    )
    share = a / (a + b)
    found = record(out)["combination_weights"]
    assert found["a"] == {"min": pytest.approx(float(share.min())), "max": pytest.approx(float(share.max()))}
    assert found["b"]["max"] == pytest.approx(1 - found["a"]["min"])
    for method, weight in (("average", 0.5), ("task_arithmetic", 1.0)):
        merge_checkpoints(**setup.on_disk(method), out=out)
        assert record(out)["combination_weights"]["b"] == {"min": weight, "max": weight}


def test_removal_has_negative_weights(setup: Setup, out: Path) -> None:
    call = setup.on_disk("gradient_matching") | {"options": {"scaling_factor": -0.1, "delta_0": 100.0}}
    merge_checkpoints(**call, out=out)
    prior = 100 + 7 * torch.cat([its.reshape(-1) for its in setup.curvature["base"].values()])
    a, b = (
        setup.sizes[task] * torch.cat([its.reshape(-1) for its in setup.curvature[task].values()])
        for task in TASKS
    )
    weights = -0.1 * (prior + a) / (prior - 0.1 * (a + b)).maximum(0.1 * prior)
    found = record(out)["combination_weights"]["a"]
    assert found["min"] == pytest.approx(float(weights.min()), rel=1e-4)
    assert found["max"] == pytest.approx(float(weights.max()), rel=1e-4)


def test_fraction_without_curvature(
    setup: Setup, write_hessian_of: WriteHessian, tmp_path: Path, out: Path
) -> None:
    call = setup.on_disk("fisher")
    for task in TASKS:
        shutil.rmtree(setup.hessians[task])
        setup.curvature[task]["embedding.weight"][:2] = 0
        write_hessian_of(setup.folders[task], setup.curvature[task])
    merge_checkpoints(**call, out=out)
    assert record(out)["fraction_without_curvature"] == pytest.approx(8 / 77)


def test_without_a_base_the_first_model_is_the_template(setup: Setup, out: Path) -> None:
    call = setup.on_disk("average") | {"base": None}
    (setup.folders["a"] / "vocab.txt").write_text("x")
    merge_checkpoints(**call, out=out)
    assert (out / "vocab.txt").read_text() == "x"
    assert list(record(out)["sources"]) == ["models['a']", "models['b']"]


def test_replaces_an_older_merge_only_when_complete(setup: Setup, out: Path) -> None:
    merge_checkpoints(**setup.on_disk("average"), out=out)
    before = read(out)
    setup.folders["b"].joinpath("model.safetensors").write_bytes(b"")
    with pytest.raises(CheckpointError, match="truncated"):
        merge_checkpoints(**setup.on_disk("task_arithmetic"), out=out)
    assert record(out)["method"] == "average"
    assert all(torch.equal(tensor, before[name]) for name, tensor in read(out).items())
    call = setup.on_disk("task_arithmetic")
    del call["models"]["b"]
    merge_checkpoints(**call, out=out)
    assert record(out)["method"] == "task_arithmetic"


def test_fills_an_empty_folder_that_a_manager_made(setup: Setup, out: Path) -> None:
    out.mkdir()
    merge_checkpoints(**setup.on_disk("average"), out=out)
    assert record(out)["method"] == "average"


def test_refuses_to_replace_an_input(setup: Setup) -> None:
    with pytest.raises(OptionError, match=r"out is the folder of models\['b'\]: .* Choose another folder"):
        merge_checkpoints(**setup.on_disk("average"), out=setup.folders["b"])
    assert read(setup.folders["b"]).keys() == setup.tensors["b"].keys()


def test_refuses_to_replace_anything_else(setup: Setup, out: Path) -> None:
    out.mkdir()
    (out / "thesis.tex").touch()
    with pytest.raises(OptionError, match="out exists and is no merged model"):
        merge_checkpoints(**setup.on_disk("average"), out=out)
    assert (out / "thesis.tex").exists()


KILLED = """
import os, signal, sys
from merging.methods import fisher
from merging.merge.streaming import merge_checkpoints
merge, calls, last = fisher.merge, [], int(sys.argv[1])
def killed(models, hessians, options, summary, watch=None):
    calls.append(1)
    if len(calls) == last: os.kill(os.getpid(), signal.SIGKILL)
    return merge(models, hessians, options, summary, watch)
fisher.merge = killed
base, a, b, h_a, h_b, out = sys.argv[2:]
merge_checkpoints(
    method="fisher", options={}, base=base, models={"a": a, "b": b}, out=out,
    extras={"hessians": {"a": h_a, "b": h_b}}, output={"max_shard_size": "60B"}, compute={"num_threads": 1},
)
"""


@pytest.fixture
def killed(setup: Setup, out: Path) -> Callable[[int], dict[str, Any]]:
    """``killed(n)``: merge in a process that is killed at the n-th parameter; gives the call."""

    def run(last: int) -> dict[str, Any]:
        folders = [*setup.folders.values(), *(setup.hessians[task] for task in TASKS), out]
        done = subprocess.run([sys.executable, "-c", KILLED, str(last), *map(str, folders)])
        assert done.returncode == -signal.SIGKILL
        return setup.on_disk("fisher") | {"output": {"max_shard_size": "60B"}}

    return run


def test_a_killed_merge_leaves_no_folder(killed: Callable[[int], Any], out: Path) -> None:
    killed(4)
    assert not out.exists()
    assert not [path for path in out.parent.glob("[!.]*") if (path / "merge.json").exists()]
    assert [path.name for path in out.parent.glob(".*")] == [".out.partial"]
    assert not list((out.parent / ".out.partial").glob("merge.json"))


@pytest.mark.parametrize("last", [1, 4, 6])
def test_a_killed_merge_goes_on(
    killed: Callable[[int], Any], out: Path, last: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Complete files are used again; the result, the record with what was counted included, is the same."""
    call = killed(last)
    undisturbed = out.parent / "undisturbed"
    merge_checkpoints(**call, out=undisturbed)
    merge, calls = methods.load("fisher").merge, []

    def counted(models: Any, hessians: Any, options: Any, summary: Any, watch: Any = None) -> Tensor:
        calls.append(1)
        return merge(models, hessians, options, summary, watch)

    monkeypatch.setattr(methods.load("fisher"), "merge", counted)
    merge_checkpoints(**call, out=out)
    assert len(calls) == len(record(out)["tensors"]["merged"]) - (last - 1)
    assert {path.name: path.read_bytes() for path in out.iterdir()} == {
        path.name: path.read_bytes() for path in undisturbed.iterdir()
    }
    assert not list(out.parent.glob(".*"))


def test_another_merge_does_not_go_on_with_the_leftovers(killed: Callable[[int], Any], out: Path) -> None:
    call = killed(4) | {"options": {"floor": 0.5}}
    undisturbed = out.parent / "undisturbed"
    merge_checkpoints(**call, out=undisturbed)
    merge_checkpoints(**call, out=out)
    merged, expected = read(out), read(undisturbed)
    assert all(torch.equal(merged[name], tensor) for name, tensor in expected.items())


def test_a_merge_of_other_weights_does_not_go_on(
    killed: Callable[[int], Any], setup: Setup, out: Path, write_model: WriteModel
) -> None:
    call = killed(4)
    shutil.rmtree(setup.folders["base"])
    write_model("base", {name: its + 1 for name, its in setup.tensors["base"].items()})
    merge_checkpoints(**call, out=out)
    undisturbed = out.parent / "undisturbed"
    merge_checkpoints(**call, out=undisturbed)
    assert record(out)["sources"] == record(undisturbed)["sources"]


def test_an_error_leaves_nothing(setup: Setup, out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = set(out.parent.iterdir())

    def broken(models: Any, options: Any) -> Tensor:
        raise RuntimeError("broken")

    monkeypatch.setattr(methods.load("average"), "merge", broken)
    with pytest.raises(RuntimeError, match="broken"):
        merge_checkpoints(**setup.on_disk("average"), out=out)
    assert set(out.parent.iterdir()) == before


def test_imports_no_transformers() -> None:
    """Starting up is most of the time of a small merge."""
    script = (
        "import sys, merging.merge.streaming\n"
        "print(sorted({'transformers', 'datasets', 'torch'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_parameters_of_live_models() -> None:
    """They require gradients; the result does not, and shares no memory with them."""
    base = {"w": torch.zeros(3, requires_grad=True), "kept": torch.ones(2, requires_grad=True)}
    model = {"w": torch.ones(3, requires_grad=True), "kept": torch.zeros(2, requires_grad=True)}
    merged = merge_tensors(
        method="task_arithmetic",
        options={},
        base=base,
        models={"a": model},
        extras={},
        policy={"exclude": ["kept"]},
    )
    assert not any(tensor.requires_grad for tensor in merged.values())
    merged["kept"].zero_()
    assert torch.equal(base["kept"].detach(), torch.ones(2))


def test_a_parameter_of_many_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """The last piece is shorter; threads are given back."""
    monkeypatch.setattr(tensor_merge, "PIECE", 7)
    torch.manual_seed(0)
    base, a, b = (torch.randn(5, 9) for _ in range(3))
    num_threads = torch.get_num_threads()
    merged = merge_tensors(
        method="task_arithmetic",
        options={"scaling_factor": 0.5},
        base={"w": base},
        models={"a": {"w": a}, "b": {"w": b}},
        extras={},
    )
    assert_close(merged["w"], base + 0.5 * (a - base) + 0.5 * (b - base))
    assert torch.get_num_threads() == num_threads


# --- memory, threads and disk ---


@pytest.mark.parametrize("compute", [{"num_threads": 1}, {"num_threads": 3}, {"max_memory": "400MiB"}])
@pytest.mark.parametrize("method", ["average", "gradient_matching", "ties", "slerp"])
def test_compute_options_do_not_change_the_result(
    setup: Setup, out: Path, method: str, compute: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tensor_merge, "PIECE", 3)
    merge_checkpoints(**setup.on_disk(method), compute=compute, out=out)
    expected = merge_tensors(**setup.in_memory(method))
    for name, tensor in read(out).items():
        assert torch.equal(tensor, expected[name])


def test_a_limit_of_memory_that_cannot_be_kept_is_refused_before_the_start(
    write_model: WriteModel, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tensor_merge, "PROCESS_BYTES", 2**20)
    for name in TASKS:
        write_model(name, {"large": torch.ones(300, 200), "small": torch.ones(3)})
    call: dict[str, Any] = {
        "method": "average", "options": {}, "base": None, "extras": {},
        "models": {task: out.parent / task for task in TASKS},
    }  # fmt: skip
    monkeypatch.delattr(methods.load("average"), "granularity")  # as a method that needs whole parameters
    text = r"max_memory must be at least 3MiB for this merge, got '2MiB': 'large' \(300, 200\) takes 2 MiB"
    with pytest.raises(OptionError, match=text):
        merge_checkpoints(**call, out=out, compute={"max_memory": "2MiB"})
    assert not list(out.parent.glob(".*"))
    merge_checkpoints(**call, out=out, compute={"max_memory": "3MiB"})
    assert out.exists()


@pytest.mark.parametrize("method", ["tsv_m", "iso_c", "iso_cts", "wudi"])
def test_decompositions_count(write_model: WriteModel, out: Path, method: str) -> None:
    """In float64 they hold more than twice the inputs: 70 to 160 bytes an element, with two models."""
    models = {task: write_model(task, {"w": torch.ones(400, 400)}) for task in TASKS}
    call: dict[str, Any] = {"method": method, "options": {}, "base": models["a"], "models": models}
    needed = open_merge(**call, extras={}, compute={"num_threads": 1}).cost().memory_bytes
    assert (needed - PROCESS_BYTES) / 400**2 > {"tsv_m": 117, "iso_c": 74, "iso_cts": 150, "wudi": 94}[method]
    assert from_headers(**call, extras={}).memory_bytes >= needed


def test_estimate(setup: Setup, out: Path) -> None:
    """Told before the start, and written down."""
    told: list[Cost] = []

    def announce(cost: Cost) -> None:
        assert not out.exists() and not list(out.parent.glob(".*"))
        told.append(cost)

    merge_checkpoints(**setup.on_disk("slerp"), out=out, announce=announce)
    (cost,) = told
    num_bytes = sum(its.numel() * 4 for its in setup.tensors["base"].values())
    assert cost.written_bytes == num_bytes
    assert cost.read_bytes == 2 * 2 * num_bytes, "two models; the angles are taken first"
    assert 300e6 < cost.memory_bytes < 400e6
    assert "0.3 kB of disk; reads 1.2 kB" in str(cost)
    assert record(out)["estimate"]["read_bytes"] == cost.read_bytes


@pytest.mark.parametrize(
    ("compute", "text"),
    [
        ({"max_memory": "2"}, "compute: max_memory must be a size with a unit such as '500MB', '5GB' or"),
        ({"device": "tpu"}, r"compute: device must be 'cpu', 'cuda' or 'cuda:N', got 'tpu'"),
        ({"num_threads": 0}, "compute: num_threads must be >= 1, got 0"),
    ],
)
def test_wrong_compute_options(setup: Setup, out: Path, compute: dict[str, Any], text: str) -> None:
    with pytest.raises(OptionError, match=text):
        merge_checkpoints(**setup.on_disk("average"), out=out, compute=compute)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32"])
def test_dtype_and_size_of_the_files(setup: Setup, out: Path, dtype: str) -> None:
    output = {"dtype": dtype, "max_shard_size": "0.1kB"}
    call = setup.on_disk("average") | {"policy": {"exclude": ["scale"]}}
    merge_checkpoints(**call, out=out, output=output)
    merged, wide = read(out), merge_tensors(**setup.in_memory("average"))
    assert merged.pop("scale").dtype == torch.float32, "what is copied keeps its own"
    for name, tensor in merged.items():
        assert torch.equal(tensor, wide[name].to(getattr(torch, dtype)))
    assert len(list(out.glob("*.safetensors"))) > 1


class StagedOnTheProcessor(Gpu):
    """The path of a GPU without one: buffers in turn and copies, but no streams and no pinned memory."""

    piece = 7

    def __init__(self) -> None:
        self.name = "cpu"
        self._thread = threading.local()

    @contextmanager
    def at_work(self) -> Iterator[None]:
        yield

    def _new_slot(self, num_bytes: int) -> Any:
        event = SimpleNamespace(synchronize=lambda: None, record=lambda: None)
        return devices._Slot(torch.empty(num_bytes, dtype=torch.uint8), event)

    def _synchronize(self) -> None:
        pass


@pytest.mark.parametrize("method", ["average", "gradient_matching", "ties", "slerp", "iso_c", "dare_ties"])
def test_the_path_of_a_gpu(setup: Setup, out: Path, method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is staged through buffers that are used again comes out the same."""
    monkeypatch.setattr(tensor_merge, "PIECE", 7)
    expected = merge_tensors(**setup.in_memory(method))
    monkeypatch.setattr(tensor_merge, "open_device", lambda name: StagedOnTheProcessor())
    merge_checkpoints(**setup.on_disk(method), out=out, compute={"num_threads": 3})
    for name, tensor in read(out).items():
        assert torch.equal(tensor, expected[name])


def test_a_device_that_is_not_there(setup: Setup, out: Path) -> None:
    device = f"cuda:{torch.cuda.device_count()}"
    with pytest.raises(
        OptionError, match=r"device is 'cuda:\d', but torch .* sees \d CUDA devices. Pass 'cpu'"
    ):
        merge_checkpoints(**setup.on_disk("average"), out=out, compute={"device": device})


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("method", METHODS)
def test_on_a_gpu(setup: Setup, out: Path, method: str) -> None:
    """The same up to rounding."""
    merge_checkpoints(**setup.on_disk(method), out=out, compute={"device": "cuda"})
    expected = merge_tensors(**setup.in_memory(method))
    for name, tensor in read(out).items():
        assert_close(tensor, expected[name], rtol=1e-4, atol=1e-5)


# --- what is not plainly merged ---


def test_excluded_tensors_are_the_base_bit_for_bit(setup: Setup) -> None:
    call = setup.in_memory("task_arithmetic") | {"policy": {"exclude": ["classifier.*", "norm.weight"]}}
    merged = merge_tensors(**call)
    for name, tensor in merged.items():
        same = torch.equal(tensor, setup.tensors["base"][name])
        assert same == (name.startswith("classifier.") or name == "norm.weight")


def test_integers_constants_and_masks_are_copied() -> None:
    base = {
        "w": torch.zeros(2),
        "embeddings.position_ids": torch.arange(3),
        "rotary_emb.inv_freq": torch.rand(3),
        "h.0.attn.bias": torch.tril(torch.ones(1, 1, 3, 3)),
        "h.0.attn.masked_bias": torch.tensor(-1e4),
        "bn.num_batches_tracked": torch.tensor(4),
        "mask": torch.tensor([True, False]),
    }
    model = {name: its + 1 if its.dtype != torch.bool else ~its for name, its in base.items()}
    del model["embeddings.position_ids"]  # newer versions do not store it
    merged = merge_tensors(method="average", options={}, base=base, models={"a": model}, extras={})
    assert torch.equal(merged.pop("w"), model["w"])
    for name, tensor in merged.items():
        assert torch.equal(tensor, base[name])


def test_the_bias_of_a_layer_called_attn_is_merged() -> None:
    merged = merge_tensors(
        method="average",
        options={},
        base={"attn.bias": torch.zeros(3)},
        models={"a": {"attn.bias": torch.ones(3)}},
        extras={},
    )
    assert torch.equal(merged["attn.bias"], torch.ones(3))


@pytest.mark.parametrize(("policy", "expected"), [({}, 3.0), ({"buffers": "base"}, 1.0)])
def test_running_statistics(policy: dict[str, Any], expected: float) -> None:
    """Averaged over the models, whatever the method: a sum of task vectors could make a variance negative."""

    def model(value: float) -> dict[str, Tensor]:
        return {"bn.running_var": torch.full((2,), value), "bn.weight": torch.ones(2)}

    merged = merge_tensors(
        method="task_arithmetic",
        options={},
        base=model(1.0),
        models={"a": model(2.0), "b": model(4.0)},
        extras={},
        policy=policy,
    )
    assert torch.equal(merged["bn.running_var"], torch.full((2,), expected))


def tied_models(write_model: WriteModel, *, stored_twice: dict[str, bool]) -> dict[str, Path]:
    """Folders whose output matrix is the embedding; some store it under both names."""
    folders = {}
    for number, (name, twice) in enumerate(stored_twice.items()):
        torch.manual_seed(number)
        tensors = {"embed.weight": torch.randn(11, 4), "layer.weight": torch.randn(4, 4)}
        if twice:
            tensors["lm_head.weight"] = tensors["embed.weight"].clone()
        folders[name] = write_model(name, tensors, config={"vocab_size": 11})
    return folders


@pytest.mark.parametrize("twice_in_models", [True, False])
def test_tied_tensors_are_merged_once(
    write_model: WriteModel, write_hessian_of: WriteHessian, out: Path, twice_in_models: bool
) -> None:
    """The norm of a whole Fisher counts them once, and the Hessian has one name only."""
    folders = tied_models(
        write_model, stored_twice={"base": True, "a": twice_in_models, "b": twice_in_models}
    )
    hessians = {}
    for number, task in enumerate(TASKS):
        torch.manual_seed(10 + number)
        curvature = {"embed.weight": torch.rand(11, 4), "layer.weight": torch.rand(4, 4)}
        hessians[task] = write_hessian_of(folders[task], curvature)
    merge_checkpoints(
        method="fisher",
        options={"normalize": "model"},
        base=folders["base"],
        models={task: folders[task] for task in TASKS},
        extras={"hessians": hessians},
        out=out,
    )
    merged = read(out)
    assert torch.equal(merged["embed.weight"], merged["lm_head.weight"])
    found = record(out)
    assert found["tensors"]["tied"] == {"lm_head.weight": "embed.weight"}
    norms = [torch.cat([its.reshape(-1) for its in read(hessians[task]).values()]).norm() for task in TASKS]
    expected = [10 * float(norm) for norm in norms]
    assert list(found["summary"]["norms"].values()) == pytest.approx(expected)


def test_a_base_that_stores_the_tied_tensor_once(write_model: WriteModel, out: Path) -> None:
    folders = tied_models(write_model, stored_twice={"base": False, "a": True, "b": False})
    models = {task: folders[task] for task in TASKS}
    merge_checkpoints(method="average", options={}, base=folders["base"], models=models, extras={}, out=out)
    assert read(out).keys() == {"embed.weight", "layer.weight"}


def test_matrices_that_one_model_untied_are_merged_apart(write_model: WriteModel, out: Path) -> None:
    folders = tied_models(write_model, stored_twice={"base": True, "a": True})
    torch.manual_seed(5)
    tensors = {name: torch.randn(11, 4) for name in ("embed.weight", "lm_head.weight")}
    b = write_model("b", tensors | {"layer.weight": torch.randn(4, 4)}, config={"vocab_size": 11})
    models = {"a": folders["a"], "b": b}
    merge_checkpoints(method="average", options={}, base=folders["base"], models=models, extras={}, out=out)
    merged = read(out)
    assert_close(
        merged["lm_head.weight"], (read(folders["a"])["embed.weight"] + tensors["lm_head.weight"]) / 2
    )
    assert not torch.equal(merged["lm_head.weight"], merged["embed.weight"])


def test_rows_of_another_vocabulary_size(random_tensors: Random) -> None:
    """Surplus rows are cut, missing rows are as in the base, with no curvature."""
    base, a, b = (random_tensors(seed) for seed in range(3))
    a["embedding.weight"] = torch.cat([a["embedding.weight"], torch.ones(2, 4)])
    b["embedding.weight"] = b["embedding.weight"][:5]
    ones = [{name: torch.ones_like(its) for name, its in model.items()} for model in (base, a, b)]
    merged = merge_tensors(
        method="gradient_matching",
        options={},
        base=base,
        models={"a": a, "b": b},
        extras={"base_hessian": ones[0], "hessians": {"a": ones[1], "b": ones[2]}},
        policy={"rows": "base"},
    )["embedding.weight"]
    theta, left, right = base["embedding.weight"], a["embedding.weight"][:7], b["embedding.weight"]
    assert_close(merged[5:], left[5:])
    assert_close(merged[:5], theta[:5] + 2 / 3 * (left[:5] + right - 2 * theta[:5]))


def test_heads_by_label(random_tensors: Random) -> None:
    base, a, b = (random_tensors(seed, num_labels=4) for seed in range(3))
    merged = merge_tensors(
        method="task_arithmetic",
        options={"scaling_factor": 0.3},
        base=base,
        models={"a": a, "b": b},
        extras={},
        policy={"heads": ["classifier.*"], "label_rows": {"a": [0, 1], "b": [1, 2]}},
    )
    for name in ("classifier.weight", "classifier.bias"):
        assert torch.equal(merged[name][0], a[name][0])
        assert_close(merged[name][1], (a[name][1] + b[name][1]) / 2)
        assert torch.equal(merged[name][2], b[name][2])
        assert torch.equal(merged[name][3], torch.zeros_like(base[name][3]))


# --- bad input ---


def test_no_models() -> None:
    with pytest.raises(OptionError, match="average: models is empty"):
        merge_tensors(method="average", options={}, base=None, models={}, extras={})


def test_missing_base(setup: Setup, out: Path) -> None:
    with pytest.raises(
        OptionError, match=r"task_arithmetic: missing base\. Give the model that all others were"
    ):
        merge_checkpoints(**setup.on_disk("task_arithmetic") | {"base": None}, out=out)


def test_other_tasks_in_hessians(setup: Setup, out: Path) -> None:
    call = setup.on_disk("fisher")
    call["extras"] = {"hessians": {"a": setup.hessians["a"], "c": setup.hessians["b"]}}
    with pytest.raises(OptionError, match=r"fisher: hessians: unknown task 'c'\. Known: a, b"):
        merge_checkpoints(**call, out=out)


def test_hessian_of_another_model(setup: Setup, out: Path) -> None:
    call = setup.on_disk("gradient_matching")
    call["extras"]["hessians"]["b"] = setup.hessians["a"]
    with pytest.raises(
        CheckpointError, match=r"hessians\['b'\] was estimated at other weights than models\['b'\]"
    ):
        merge_checkpoints(**call, out=out)
    call = setup.on_disk("gradient_matching")
    call["extras"]["base_hessian"] = setup.hessians["a"]
    with pytest.raises(CheckpointError, match="base_hessian was estimated at other weights than base"):
        merge_checkpoints(**call, out=out)
    assert not out.exists()


def test_a_frozen_parameter_is_in_no_hessian(setup: Setup, out: Path, write_hessian_of: WriteHessian) -> None:
    """It has no curvature then, which is counted: gradient matching is task arithmetic there."""
    for name in ("base", *TASKS):
        shutil.rmtree(setup.hessians[name])
        del setup.curvature[name]["norm.weight"]
        write_hessian_of(setup.folders[name], setup.curvature[name])
    merge_checkpoints(**setup.on_disk("gradient_matching"), out=out)
    base, a, b = (setup.tensors[name]["norm.weight"] for name in ("base", *TASKS))
    assert_close(read(out)["norm.weight"], base + (a - base) + (b - base))
    found = record(out)
    assert found["not_in_hessians"] == ["norm.weight"]
    assert found["fraction_without_curvature"] == pytest.approx(5 / 77)
    assert torch.equal(
        read(out)["norm.weight"], merge_tensors(**setup.in_memory("gradient_matching"))["norm.weight"]
    )


def test_a_hessian_of_something_else(setup: Setup) -> None:
    call = setup.in_memory("fisher")
    call["extras"]["hessians"]["b"] = {"other.weight": torch.ones(2)}
    text = (
        r"hessians\['b'\] holds no tensor of base, .* like 'classifier\.bias', but 'other\.weight'\. Estimate"
    )
    with pytest.raises(CheckpointError, match=text):
        merge_tensors(**call | {"policy": {"on_missing": "base"}})


def test_hessian_without_a_parameter(setup: Setup, out: Path, write_hessian_of: WriteHessian) -> None:
    shutil.rmtree(setup.hessians["a"])
    del setup.curvature["a"]["norm.weight"]
    write_hessian_of(setup.folders["a"], setup.curvature["a"])
    text = r"'norm\.weight' is in base, but not in hessians\['a'\]\. .*\[\"norm\.weight\"\]} or"
    with pytest.raises(CheckpointError, match=text):
        merge_checkpoints(**setup.on_disk("fisher"), out=out)
    merge_checkpoints(**setup.on_disk("fisher") | {"policy": {"on_missing": "base"}}, out=out)
    assert record(out)["tensors"]["copied"] == ["norm.weight"]


def test_a_model_folder_as_hessian(setup: Setup, out: Path) -> None:
    call = setup.on_disk("fisher")
    call["extras"]["hessians"]["a"] = setup.folders["a"]
    with pytest.raises(
        CheckpointError, match=r"hessians\['a'\]: .* is no Hessian folder: it has no hessian\.json"
    ):
        merge_checkpoints(**call, out=out)


def test_shapes_of_heads_differ(setup: Setup, random_tensors: Random) -> None:
    call = setup.in_memory("average")
    call["models"]["b"] = random_tensors(5, num_labels=2)
    call["policy"] = {"rows": "base"}  # for vocabularies; a label is no token
    text = (
        r"checkpoints differ: 'classifier\.bias' is \(3,\) in base and \(2,\) in models\['b'\]\. "
        r'Pass the policy {"head": "keep"} to keep the head of base'
    )
    with pytest.raises(CheckpointError, match=text):
        merge_tensors(**call)
    merged = merge_tensors(**call | {"policy": {"exclude": ["classifier.*"]}})
    assert torch.equal(merged["classifier.weight"], setup.tensors["base"]["classifier.weight"])


def test_vocabulary_sizes_differ(setup: Setup) -> None:
    call = setup.in_memory("average")
    call["models"]["b"] = call["models"]["b"] | {"embedding.weight": torch.zeros(9, 4)}
    text = r"'embedding\.weight' is \(7, 4\) in base and \(9, 4\) in models\['b'\]\. .* {\"rows\": \"base\"}"
    with pytest.raises(CheckpointError, match=text):
        merge_tensors(**call)


def test_architectures_differ(setup: Setup) -> None:
    call = setup.in_memory("average")
    call["models"]["b"] = call["models"]["b"] | {"layer.weight": torch.zeros(5, 9)}
    with pytest.raises(CheckpointError, match="They have different architectures"):
        merge_tensors(**call)


@pytest.mark.parametrize("rows", ["error", "base"])
def test_tensor_that_a_model_lacks(setup: Setup, rows: str) -> None:
    call = setup.in_memory("average") | {"policy": {"rows": rows}}
    call["models"]["b"] = {name: its for name, its in call["models"]["b"].items() if name != "layer.bias"}
    with pytest.raises(CheckpointError, match=r"'layer\.bias' is in base, but not in models\['b'\]"):
        merge_tensors(**call)


def test_tensor_that_the_base_lacks(setup: Setup) -> None:
    call = setup.in_memory("average")
    call["models"]["b"] = call["models"]["b"] | {"pooler.weight": torch.zeros(2, 2)}
    with pytest.raises(CheckpointError, match=r"'pooler\.weight' is in models\['b'\], but not in base"):
        merge_tensors(**call)
    assert "pooler.weight" not in merge_tensors(**call | {"policy": {"on_missing": "base"}})


def test_pattern_that_matches_nothing(setup: Setup) -> None:
    text = r"exclude has the pattern 'clasifier\.\*', which matches no tensor\. Names are like 'classifier"
    with pytest.raises(OptionError, match=text):
        merge_tensors(**setup.in_memory("average"), policy={"exclude": ["clasifier.*"]})


def test_unknown_policy(setup: Setup, out: Path) -> None:
    with pytest.raises(OptionError, match=r"policy: unknown option 'excludes'\. Did you mean 'exclude'"):
        merge_checkpoints(**setup.on_disk("average"), out=out, policy={"excludes": []})


@pytest.mark.parametrize("policy", [{"heads": ["classifier.*"]}, {"label_rows": {"a": [0], "b": [0]}}])
def test_half_a_head_policy(setup: Setup, policy: dict[str, Any]) -> None:
    with pytest.raises(OptionError, match="heads and label_rows belong together"):
        merge_tensors(**setup.in_memory("average"), policy=policy)


def test_label_rows_out_of_range_or_of_other_tasks(setup: Setup) -> None:
    call = setup.in_memory("average")
    rows = {"a": [0, 3], "b": [0]}
    with pytest.raises(
        OptionError, match=r"label_rows\['a'\] is \[0, 3\], but 'classifier\.bias' has 3 rows"
    ):
        merge_tensors(**call, policy={"heads": ["classifier.*"], "label_rows": rows})
    with pytest.raises(OptionError, match=r"label_rows names \['a'\], but the models are \['a', 'b'\]"):
        merge_tensors(**call, policy={"heads": ["classifier.*"], "label_rows": {"a": [0]}})


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_wrong_numbers_in_a_model(setup: Setup, out: Path, value: float, write_model: WriteModel) -> None:
    setup.tensors["b"]["layer.weight"][2, 1] = value
    folder = write_model("broken", setup.tensors["b"])
    call = setup.on_disk("task_arithmetic")
    call["models"]["b"] = folder
    text = r"models\['b'\]: 'layer\.weight' has NaN or infinite values"
    with pytest.raises(CheckpointError, match=text):
        merge_checkpoints(**call, out=out)
    assert not out.exists()


def test_wrong_numbers_in_a_hessian(setup: Setup) -> None:
    call = setup.in_memory("fisher")
    call["extras"]["hessians"]["a"]["norm.weight"][0] = float("nan")
    with pytest.raises(CheckpointError, match=r"hessians\['a'\]: 'norm\.weight' has NaN"):
        merge_tensors(**call)
    call["extras"]["hessians"]["a"]["norm.weight"][0] = -1.0
    with pytest.raises(CheckpointError, match=r"hessians\['a'\]: 'norm\.weight' has entries below 0"):
        merge_tensors(**call)


def test_large_but_finite_numbers_are_fine() -> None:
    """Their sum overflows, which is what the first, fast look sees."""
    model = {"w": torch.full((4,), 3e38)}
    merged = merge_tensors(method="average", options={}, base=None, models={"a": model}, extras={})
    assert torch.equal(merged["w"], model["w"])


def test_result_that_does_not_fit_its_dtype() -> None:
    models = {task: {"w": torch.full((4,), 6e4).half()} for task in TASKS}
    options = {"weights": {"a": 1.0, "b": 1.0}, "normalize": False}
    with pytest.raises(CheckpointError, match=r"merged model: 'w' has NaN or infinite .* torch\.float16"):
        merge_tensors(method="average", options=options, base=None, models=models, extras={})


def test_float8_is_refused() -> None:
    model = {"w": torch.ones(4).to(torch.float8_e4m3fn)}
    with pytest.raises(
        CheckpointError, match=r"'w' is stored as F8_E4M3\. Quantised checkpoints cannot be merged"
    ):
        merge_tensors(method="average", options={}, base=None, models={"a": model}, extras={})


def test_disk_space_is_checked_first(setup: Setup, out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage(out.parent)._replace(free=10)
    monkeypatch.setattr(checkpoints.shutil, "disk_usage", lambda _: usage)

    def unreached(models: Any, options: Any) -> Tensor:
        raise AssertionError("merged before the space was checked")

    monkeypatch.setattr(methods.load("average"), "merge", unreached)
    with pytest.raises(DiskSpaceError, match=r"only 0\.0 kB are free"):
        merge_checkpoints(**setup.on_disk("average"), out=out)
    assert not out.exists()
