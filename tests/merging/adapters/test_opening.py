"""Folders of every form that models come in."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from merging.errors import CheckpointError
from merging.files.checkpoints import weights_hash
from merging.sources.adapter import AdapterSource
from merging.sources.opening import open_model
from merging.sources.pickled import PickledCheckpoint
from safetensors.torch import save_file
from torch import Tensor


@pytest.fixture
def tensors(random_tensors: Callable[..., dict[str, Tensor]]) -> dict[str, Tensor]:
    return random_tensors(0, dtype=torch.bfloat16) | {"steps": torch.tensor(3)}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text('{"model_type": "toy"}')
    return tmp_path / "model"


def same(model: Any, tensors: dict[str, Tensor]) -> bool:
    return model.tensors.keys() == tensors.keys() and all(
        model.read(name).equal(its) and model.tensors[name].shape == its.shape
        for name, its in tensors.items()
    )


def test_one_pickled_file(folder: Path, tensors: dict[str, Tensor], write_model: Any) -> None:
    torch.save(tensors, folder / "pytorch_model.bin")
    model = open_model(folder, label="base")
    assert same(model, tensors)
    assert model.read_piece("layer.weight", 3, 9).equal(tensors["layer.weight"].reshape(-1)[3:9])
    assert model.digest() == weights_hash(write_model("safe", tensors))


def test_what_was_read_can_be_written_into(folder: Path, tensors: dict[str, Tensor]) -> None:
    torch.save(tensors, folder / "pytorch_model.bin")
    model = open_model(folder, label="base")
    model.read("layer.weight").zero_()
    model.read_piece("layer.weight", 0, 4).zero_()
    assert same(model, tensors)


def test_shards(folder: Path, tensors: dict[str, Tensor]) -> None:
    names = sorted(tensors)
    shards = {"a.bin": names[:3], "b.bin": names[3:]}
    for file, its in shards.items():
        torch.save({name: tensors[name] for name in its}, folder / file)
    weight_map = {name: file for file, its in shards.items() for name in its}
    index = folder / "pytorch_model.bin.index.json"
    index.write_text(json.dumps({"weight_map": weight_map}))
    assert same(open_model(folder, label="base"), tensors)
    index.write_text(json.dumps({"weight_map": {**weight_map, "lost": "b.bin"}}))
    with pytest.raises(CheckpointError, match="names 'lost', which"):
        open_model(folder, label="base")
    (folder / "b.bin").unlink()
    with pytest.raises(CheckpointError, match="1 of the 2 shards"):
        open_model(folder, label="base")


def test_old_and_transposed_tensors(folder: Path) -> None:
    weight = torch.arange(6.0).reshape(2, 3)
    file = folder / "pytorch_model.bin"
    torch.save({"w": weight.T}, file, _use_new_zipfile_serialization=False)
    assert open_model(folder, label="base").read_piece("w", 1, 4).tolist() == [3, 1, 4]


def test_safetensors_come_first(folder: Path, tensors: dict[str, Tensor]) -> None:
    save_file(tensors, folder / "model.safetensors")
    torch.save({}, folder / "pytorch_model.bin")
    assert same(open_model(folder, label="base"), tensors)


class Evil:
    def __reduce__(self) -> Any:
        return (print, ("ran",))


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ({"w": Evil()}, "holds more than tensors, or is damaged, and is not loaded"),
        ({"w": torch.ones(2), "epoch": 3}, "is no state dict of tensors by name: 'epoch'"),
        (torch.ones(2), "is no state dict of tensors by name: 'Tensor'"),
    ],
)
def test_pickles_that_are_refused(content: Any, text: str, folder: Path, capsys: Any) -> None:
    torch.save(content, folder / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match=text):
        open_model(folder, label="models['a']")
    assert "ran" not in capsys.readouterr().out


def test_truncated_pickles(folder: Path, tensors: dict[str, Tensor]) -> None:
    file = folder / "pytorch_model.bin"
    torch.save(tensors, file)
    file.write_bytes(file.read_bytes()[:-200])
    with pytest.raises(CheckpointError, match=r"base: .*pytorch_model.bin"):
        PickledCheckpoint([file], label="base")


@pytest.mark.parametrize(
    ("name", "dtype"),
    [
        ("layer.qweight", torch.int32),
        ("layer.weight", torch.uint8),
        ("layer.weight", torch.float8_e4m3fn),
        ("layer.weight.absmax", torch.float32),
        ("layer.weight.quant_state.bitsandbytes__nf4", torch.uint8),
        ("layer.weight_scale_inv", torch.float32),
    ],
)
def test_quantised_tensors_are_refused(name: str, dtype: torch.dtype, folder: Path) -> None:
    save_file({"ok": torch.ones(2), name: torch.zeros(4).to(dtype)}, folder / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"quantised model.*Use the model in bfloat16"):
        open_model(folder, label="models['a']")


def test_integer_buffers_are_no_sign_of_quantisation(folder: Path) -> None:
    save_file({"attn.bias": torch.ones(1, 1, 2, 2).to(torch.uint8)}, folder / "model.safetensors")
    open_model(folder, label="base")


def test_quantised_folders_are_refused(folder: Path) -> None:
    (folder / "model-q4.gguf").write_bytes(b"GGUF")
    with pytest.raises(CheckpointError, match="GGUF files cannot be merged"):
        open_model(folder, label="base")
    (folder / "config.json").write_text('{"quantization_config": {}}')
    with pytest.raises(CheckpointError, match="is quantised"):
        open_model(folder, label="base")


def test_adapters(make_adapter: Any, bases: Any, folder: Path) -> None:
    made = make_adapter("bert", "adapter", 1, {"target_modules": ["query"], "r": 2})
    with pytest.raises(CheckpointError, match="is an adapter, and no base is given"):
        open_model(made.folder, label="models['a']")
    save_file(bases["bert"].state_dict(), folder / "model.safetensors")
    base = open_model(folder, label="base")
    model = open_model(made.folder, label="models['a']", base=base, base_folder=folder)
    assert isinstance(model, AdapterSource)
    assert model.notes == ()
    assert len({model.digest(), base.digest()}) == 2
    config = made.folder / "adapter_config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"base_model_name_or_path": "org/other"}))
    model = open_model(made.folder, label="models['a']", base=base, base_folder=folder)
    assert isinstance(model, AdapterSource)
    assert "was trained on 'org/other'" in model.notes[0]
    save_file({"w": torch.ones(2)}, made.folder / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"both an adapter and a whole model \(model.safetensors\)"):
        open_model(made.folder, label="models['a']", base=base)


def test_no_folder(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="is no folder"):
        open_model(tmp_path / "none", label="base")
