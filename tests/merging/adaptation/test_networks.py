"""Networks of all tasks on one body, and architectures that are stored under other names than they run."""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from merging import models, tasks
from merging.adaptation.networks import share_parameters, stored_names, task_networks
from merging.adaptation.run import adapt
from merging.adaptation.run_wemoe import upscale_and_learn
from merging.errors import CheckpointError
from merging.merge.streaming import merge_checkpoints, open_merge
from safetensors.torch import load_file, save_file
from torch import nn

IMAGES = "image_classification"
ARCHITECTURE = {
    "model_type": "vit",
    "image_size": 8,
    "patch_size": 4,
    "num_channels": 1,
    "hidden_size": 8,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 12,
}
OPTIONS = {"num_steps": 3, "batch_size": 8, "learning_rate": 0.05}


@pytest.fixture(scope="session")
def transformers_of_images(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A tiny ViT, ``base``, and two more with other weights and numbers of classes."""
    root, task = tmp_path_factory.mktemp("vit"), tasks.load(IMAGES)
    found = {}
    for seed, (name, num_labels) in enumerate({"base": 10, "one": 10, "two": 4}.items()):
        labels = [str(label) for label in range(num_labels)]
        model = task.build_model(
            model=None, architecture=ARCHITECTURE, label_names=labels, dropout=None, seed=seed
        )
        found[name] = root / name
        with models.quiet():
            model.save_pretrained(found[name])
            task.load_processor(model=None, architecture=ARCHITECTURE).save_pretrained(found[name])
    return found


@pytest.fixture
def images(transformers_of_images: Mapping[str, Path], digits: Path) -> dict[str, Any]:
    """Arguments for what adapts."""
    data = {"data": digits, "split": "train[:40]", "shuffle_seed": 0}
    return {
        "task_type": IMAGES,
        "base": transformers_of_images["base"],
        "models": {name: transformers_of_images[name] for name in ("one", "two")},
        "data": {"one": data, "two": data},
        "seed": 0,
    }


def test_all_tasks_share_one_body(images: dict[str, Any]) -> None:
    opened = open_merge(
        method="task_arithmetic",
        options={"scaling_factor": 0.3},
        base=images["base"],
        models=images["models"],
        extras={},
        policy={"head": "per_task"},
    )
    tensors = {name: opened.tensor(name) for name in opened.names}
    found = task_networks(IMAGES, opened, tensors, torch.device("cpu"))
    one, two = (dict(found[task].named_parameters()) for task in ("one", "two"))
    assert {name for name in one if one[name] is not two[name]} == {"classifier.weight", "classifier.bias"}
    assert two["classifier.weight"].shape == (4, 8)
    names = stored_names(found["one"], {name: tensors[name] for name in opened.plan.merged})
    assert sorted(names.values()) == sorted(opened.plan.merged)
    assert all(torch.equal(one[name], tensors[stored]) for name, stored in names.items())


def test_coefficients_have_the_names_of_the_files(images: dict[str, Any], tmp_path: Path) -> None:
    adapt(**images, options=OPTIONS, out=tmp_path / "out")
    record = json.loads((tmp_path / "out" / "adaptation.json").read_text())
    given = {key: images[key] for key in ("base", "models")}
    merge_checkpoints(
        method=record["method"],
        options=record["options"],
        **given,
        extras={},
        policy={"head": "per_task"},
        out=tmp_path / "merged",
    )
    *entries, _ = record["options"]["scaling_factor"]
    merged = json.loads((tmp_path / "merged" / "merge.json").read_text())["tensors"]["merged"]
    assert sorted(entry["filter"] for entry in entries) == merged
    assert len({entry["value"]["one"] for entry in entries}) > 5


def test_a_vision_transformer_becomes_a_mixture(images: dict[str, Any], tmp_path: Path) -> None:
    upscale_and_learn(**images, options=OPTIONS, out=tmp_path / "out")
    record = json.loads((tmp_path / "out" / "wemoe.json").read_text())
    assert record["num_mlps"] == 2 and len(record["curve"]) == 3


def test_a_base_may_have_no_head(call: dict[str, Any], folders: Mapping[str, Path], tmp_path: Path) -> None:
    base = tmp_path / "base"
    shutil.copytree(folders["base"], base)
    tensors = load_file(base / "model.safetensors")
    body = {name: its for name, its in tensors.items() if "classifier" not in name}
    save_file(body, base / "model.safetensors", metadata={"format": "pt"})
    adapt(**call, base=base, options={"num_steps": 1, "max_tokens": 16}, out=tmp_path / "out")
    assert (tmp_path / "out" / "heads" / "many" / "config.json").is_file()


def test_parameters_that_are_tied_are_replaced_everywhere() -> None:
    network = nn.ModuleDict({"a": nn.Linear(2, 2), "b": nn.Linear(2, 2)})
    network["b"].weight = network["a"].weight
    weight = nn.Parameter(torch.ones(2, 2))
    share_parameters(network, {"a.weight": weight})
    assert network["a"].weight is weight and network["b"].weight is weight
    assert network["a"].bias is not network["b"].bias


def test_parameters_made_of_several_tensors_are_refused() -> None:
    config = transformers.MixtralConfig(
        hidden_size=8,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=2,
        intermediate_size=8,
        vocab_size=11,
        num_local_experts=2,
    )
    network = transformers.MixtralForCausalLM(config)
    tensors = models.as_stored(network, {name: its.detach() for name, its in network.named_parameters()})
    with pytest.raises(CheckpointError, match=r"experts.*is made of .*w1\.weight, .*not of one tensor"):
        stored_names(network, tensors)
