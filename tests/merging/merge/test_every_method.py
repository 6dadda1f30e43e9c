"""Every method of the registry with every input that it can be given, streamed from folders.

The model is a GPT-2 of one layer: weights of its layers are stored transposed, its parameters are in known
places, and there are a scalar and a vector besides matrices.
"""

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from merging import methods
from merging.files.checkpoints import TensorInfo, dtype_name, weights_hash, whole_tensors, write_checkpoint
from merging.hessians.artifact import HessianRecord, write_hessian
from merging.merge import tensor_merge
from merging.merge.streaming import merge_checkpoints, merge_tensors
from merging.methods._seam import Factors, MaskFisher
from safetensors.torch import load_file
from torch import Tensor
from torch.testing import assert_close

TASKS = ("a", "b", "c")
CONFIG = {
    "model_type": "gpt2", "architectures": ["GPT2Model"], "vocab_size": 7, "n_positions": 5, "n_embd": 4,
    "n_layer": 1, "n_head": 2, "n_inner": 6, "bos_token_id": 0, "eos_token_id": 0,
}  # fmt: skip
CONV1D = {
    "h.0.attn.c_attn.weight": (4, 12),
    "h.0.attn.c_proj.weight": (4, 4),
    "h.0.mlp.c_fc.weight": (4, 6),
    "h.0.mlp.c_proj.weight": (6, 4),
}
SHAPES = {
    **CONV1D,
    "wte.weight": (7, 4),
    "h.0.attn.c_attn.bias": (12,),
    "h.0.ln_1.weight": (4,),
    "score.weight": (3, 4),
    "filters.weight": (3, 2, 2),
    "scale": (),
}
VARIANTS: dict[str, tuple[dict[str, Any], ...]] = {
    "breadcrumbs": ({"rescale": "l1"},),
    "dare_linear": ({"strategy": "magnitude", "rescale": "none"},),
    "della": ({"rescale": "l1"},),
    "emr": ({"task": "b"},),
    "fisher": ({"normalize": "model"}, {"normalize": "tensor"}),
    "gradient_matching": ({"scaling_factor": -0.01, "delta_0": 1.0}, {"anchor": "base"}),
    "gradient_matching_kfac": ({"scaling_factor": -0.01, "delta_0": 1.0}, {"preconditioner": "jacobi"}),
    "iso_c": ({"parity": True},),
    "iso_cts": ({"parity": True},),
    "mats": (
        {"objective": "diagonal_fisher", "num_iterations": 3},
        {"objective": "regmean", "initialization": "initial"},
        {"objective": "block", "average_last": 2, "num_iterations": 4},
        {"objective": "average"},
    ),
    "model_stock": ({"filter_wise": True},),
    "multislerp": ({"relative_to_base": True},),
    "nuslerp": ({"axis": "last"}, {"axis": "first", "relative_to_base": True}),
    "regmean": ({"weigh_by_positions": True},),
    "sce": ({"select_topk": 0.4},),
    "tall_masks": ({"task": "b"},),
    "ties": ({"flavour": "per_tensor", "rescale": "l1"}, {"election": "normmass"}),
    "wudi": ({"iterations": 5, "learning_rate": 1e-3},),
}
CASES = [(method, options) for method in methods.names() for options in ({}, *VARIANTS.get(method, ()))]


def shown(value: Any) -> str:
    """A case in the name of its test."""
    return str(value).replace("'", "")


def takes_statistics(method: str) -> bool:
    return not {"base", "models", "initial"}.issuperset(methods.inputs(method))


BY_CASE = pytest.mark.parametrize(("method", "options"), CASES, ids=shown)


class Inputs:
    """Everything that methods ask for, as folders and in memory."""

    def __init__(self, folder: Path, dtype: torch.dtype) -> None:
        self.generator = torch.Generator().manual_seed(0)
        self.tensors: dict[str, dict[str, Tensor]] = {}
        self.models: dict[str, Path] = {}
        self.disk: dict[str, Any] = {}
        self.memory: dict[str, Any] = {}
        for label in ("base", *TASKS, "initial"):
            self.tensors[label] = {name: self.normal(shape).to(dtype) for name, shape in SHAPES.items()}
            self.models[label] = write_model(folder / label, self.tensors[label])
        self.disk["initial"], self.memory["initial"] = self.models["initial"], self.tensors["initial"]
        for number, label in enumerate(("base", *TASKS)):
            size = 10 + number
            diagonal = {name: self.normal(shape).square() for name, shape in SHAPES.items()}
            scaled = {name: its * size for name, its in diagonal.items()}
            self.add(folder, label, "hessian", "diagonal", diagonal, scaled, size)
            inputs = {name: self.second_moment(self.sides(name)[0]) for name in self.linear()}
            outputs = {name: self.second_moment(self.sides(name)[1]) for name in self.linear()}
            its = {name: self.factors(name, inputs, None, 1.0) for name in inputs}
            stored = {f"{name}/inputs": tensor for name, tensor in inputs.items()}
            self.add(folder, label, "gram", "gram", stored, its, size)
            its = {name: self.factors(name, inputs, outputs, float(size)) for name in inputs}
            stored |= {f"{name}/outputs": tensor for name, tensor in outputs.items()}
            self.add(folder, label, "factors", "kfac", stored, its, size)
            blocks = {name: self.second_moment(*shape) for name, shape in SHAPES.items() if len(shape) == 1}
            scaled = {name: its * size for name, its in blocks.items()}
            self.add(folder, label, "block", "block", blocks, scaled, size)
            masks = {"heads": self.normal((1, 2)).abs(), "neurons": self.normal((1, 6)).abs()}
            self.add(folder, label, "mask_fisher", "mask_nodes", masks, MaskFisher(**masks), size)

    def normal(self, shape: tuple[int, ...]) -> Tensor:
        return torch.randn(shape, generator=self.generator)

    def second_moment(self, size: int) -> Tensor:
        root = self.normal((size, 2 * size))
        return root @ root.T / size

    def linear(self) -> tuple[str, ...]:
        return (*CONV1D, "score.weight")

    def sides(self, name: str) -> tuple[int, int]:
        """(inputs, outputs)."""
        one, other = SHAPES[name]  # type: ignore[misc]
        return (one, other) if name in CONV1D else (other, one)

    def factors(
        self, name: str, inputs: Mapping[str, Tensor], outputs: Mapping[str, Tensor] | None, scale: float
    ) -> Factors:
        return Factors(
            inputs[name],
            None if outputs is None else outputs[name],
            transposed=name in CONV1D,
            scale=scale,
            num_positions=len(name),
        )

    def add(
        self,
        folder: Path,
        label: str,
        key: str,
        statistic: Any,
        stored: Mapping[str, Tensor],
        value: Any,
        size: int,
    ) -> None:
        """One statistic of one model."""
        path = folder / f"{statistic}_{label}"
        path.mkdir()
        record = HessianRecord(
            estimator="some",
            task_type="sequence_classification",
            num_examples=5,
            num_train_examples=size,
            model_hash=weights_hash(self.models[label]),
            model=str(self.models[label]),
            data=None,
            seed=0,
            statistic=statistic,
            transposed=tuple(CONV1D) if statistic in ("gram", "kfac") else (),
            num_positions={name: len(name) for name in SHAPES} if statistic in ("gram", "kfac") else {},
        )
        write_hessian(path, stored, record)
        for place, its in ((self.disk, path), (self.memory, value)):
            if label == "base":
                place[f"base_{key}"] = its
            else:
                place.setdefault(key if key.endswith("s") else f"{key}s", {})[label] = its

    def call(self, method: str, options: Mapping[str, Any], *, on_disk: bool) -> dict[str, Any]:
        """Arguments of a merge that is given all that it knows."""
        _, most = getattr(methods.load(method), "NUM_MODELS", (1, None))
        tasks = TASKS[:most]
        offer = self.disk if on_disk else self.memory
        models = self.models if on_disk else self.tensors
        known = [key for key in methods.inputs(method) if key not in ("base", "models")]
        return {
            "method": method,
            "options": dict(options),
            "base": models["base"],
            "models": {task: models[task] for task in tasks},
            "extras": {key: self.chosen(offer[key], key, tasks) for key in known},
        }

    def chosen(self, value: Any, key: str, tasks: tuple[str, ...]) -> Any:
        return {task: value[task] for task in tasks} if methods.is_by_task(key) else value


def write_model(folder: Path, tensors: Mapping[str, Tensor]) -> Path:
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(CONFIG))
    infos = {name: TensorInfo(dtype_name(its.dtype), tuple(its.shape)) for name, its in tensors.items()}
    write_checkpoint(folder, infos, whole_tensors(tensors.__getitem__), max_shard_bytes=300)
    return folder


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Inputs:
    return Inputs(tmp_path_factory.mktemp("inputs"), torch.float32)


@pytest.fixture(scope="module")
def half_inputs(tmp_path_factory: pytest.TempPathFactory) -> Inputs:
    """Models in bfloat16; statistics are always in float32."""
    return Inputs(tmp_path_factory.mktemp("half"), torch.bfloat16)


@BY_CASE
def test_streamed_is_in_memory_with_any_threads_and_memory(
    inputs: Inputs, tmp_path: Path, method: str, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    check_streamed(inputs, tmp_path, method, options, monkeypatch)


@pytest.mark.parametrize(
    ("method", "options"), [case for case in CASES if takes_statistics(case[0])], ids=shown
)
def test_streamed_is_in_memory_in_half_precision(
    half_inputs: Inputs, tmp_path: Path, method: str, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    check_streamed(half_inputs, tmp_path, method, options, monkeypatch)


def check_streamed(
    inputs: Inputs, out: Path, method: str, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Merge in memory, with three threads, and with so little memory that threads wait for each other."""
    monkeypatch.setattr(tensor_merge, "PIECE", 16)
    expected = merge_tensors(**inputs.call(method, options, on_disk=False), transposed=tuple(CONV1D))
    assert expected.keys() == SHAPES.keys()
    assert any(not torch.equal(its, inputs.tensors["base"][name]) for name, its in expected.items())
    monkeypatch.setattr(tensor_merge, "PROCESS_BYTES", 0)
    monkeypatch.setattr(tensor_merge, "LOOKUP_BYTES", 0)
    call = inputs.call(method, options, on_disk=True)
    merge_checkpoints(**call, out=out / "fast", compute={"num_threads": 3})
    merge_checkpoints(**call, out=out / "small", compute={"num_threads": 2, "max_memory": "20KB"})
    merged = load_file(out / "fast" / "model.safetensors")
    assert merged.keys() == expected.keys()
    for name, tensor in merged.items():
        assert torch.equal(tensor, expected[name]), name
    files = [(out / folder / "model.safetensors").read_bytes() for folder in ("fast", "small")]
    assert files[0] == files[1]


AS_STORED = {
    "arcee_fusion": "softmax along the last axis, as in mergekit",
    "dare_linear": "draws by position in the file",
    "dare_ties": "draws by position in the file",
    "della": "draws by position in the file",
    "della_linear": "draws by position in the file",
    "nuslerp": "rows and columns of the tensor as it is stored, as in mergekit",
}


@pytest.mark.parametrize(
    ("method", "options"),
    [case for case in CASES if case[0] not in AS_STORED and "parity" not in case[1]],
    ids=shown,
)
def test_a_layer_means_the_same_however_it_is_stored(
    inputs: Inputs, method: str, options: dict[str, Any]
) -> None:
    """GPT-2 with all weights as (outputs, inputs), turned by hand, with its statistics."""
    call = inputs.call(method, options, on_disk=False)
    expected = merge_tensors(**call, transposed=tuple(CONV1D))
    turned = turn(call)
    merged = merge_tensors(**{**call, **{key: turned[key] for key in ("base", "models", "extras")}})
    for name, tensor in merged.items():
        its = expected[name].T if name in CONV1D else expected[name]
        assert_close(tensor, its, rtol=1e-4, atol=1e-5)


def turn(value: Any, name: str = "") -> Any:
    """Everything that belongs to a Conv1D, as of a linear layer."""
    if isinstance(value, Mapping):
        return {key: turn(its, key) for key, its in value.items()}
    if isinstance(value, Factors):
        return replace(value, transposed=False)
    return value.T.contiguous() if name in CONV1D else value
