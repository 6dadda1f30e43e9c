import errno
import itertools
import json
import shutil
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from merging.errors import CheckpointError, DiskSpaceError
from merging.files import checkpoints
from merging.files.checkpoints import (
    TensorInfo,
    dtype_name,
    open_checkpoint,
    weights_hash,
    whole_tensors,
    write_checkpoint,
)
from merging.files.fingerprint import blocks
from safetensors.torch import load_file, save_file
from torch import Tensor

WriteModel = Callable[..., Path]


@pytest.fixture
def tensors() -> dict[str, Tensor]:
    torch.manual_seed(0)
    return {
        "embedding.weight": torch.randn(7, 4),
        "half.weight": torch.randn(3).half(),
        "brain.weight": torch.randn(5, 3).bfloat16(),
        "double": torch.randn(2, 2, 2).double(),
        "position_ids": torch.arange(5),
        "mask": torch.tensor([True, False, True]),
        "scalar": torch.tensor(1.5),
        "empty": torch.empty(0, 4),
    }


def infos(tensors: dict[str, Tensor]) -> dict[str, TensorInfo]:
    return {name: TensorInfo(dtype_name(its.dtype), tuple(its.shape)) for name, its in tensors.items()}


def assert_equal(folder: Path, tensors: dict[str, Tensor]) -> None:
    checkpoint = open_checkpoint(folder, label="it")
    assert checkpoint.tensors == infos(tensors)
    for name, tensor in tensors.items():
        assert checkpoint.read(name).dtype == tensor.dtype
        assert torch.equal(checkpoint.read(name), tensor)


def test_reads_what_safetensors_wrote(tmp_path: Path, tensors: dict[str, Tensor]) -> None:
    save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
    assert_equal(tmp_path, tensors)
    assert open_checkpoint(tmp_path, label="it").metadata == {"format": "pt"}


def test_safetensors_reads_what_we_write(tmp_path: Path, tensors: dict[str, Tensor]) -> None:
    write_checkpoint(tmp_path, infos(tensors), whole_tensors(tensors.__getitem__))
    assert [path.name for path in tmp_path.iterdir()] == ["model.safetensors"]
    loaded = load_file(tmp_path / "model.safetensors")
    assert loaded.keys() == tensors.keys()
    assert all(torch.equal(loaded[name], tensor) for name, tensor in tensors.items())
    assert_equal(tmp_path, tensors)


@pytest.mark.parametrize("max_shard_bytes", [1, 40, 150])
def test_shards(tmp_path: Path, tensors: dict[str, Tensor], max_shard_bytes: int) -> None:
    write_checkpoint(
        tmp_path, infos(tensors), whole_tensors(tensors.__getitem__), max_shard_bytes=max_shard_bytes
    )
    files = sorted(path.name for path in tmp_path.glob("*.safetensors"))
    assert len(files) > 1
    assert files == [
        f"model-{number:05d}-of-{len(files):05d}.safetensors" for number in range(1, len(files) + 1)
    ]
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
    assert sorted(index["weight_map"]) == sorted(tensors)
    assert index["metadata"]["total_size"] == sum(
        its.numel() * its.element_size() for its in tensors.values()
    )
    assert_equal(tmp_path, tensors)


def test_tensors_are_computed_one_at_a_time(tmp_path: Path, tensors: dict[str, Tensor]) -> None:
    """A file fills between two calls: nothing is held back until all are there."""
    filled = []

    def value(name: str) -> Tensor:
        filled.append(sum(byte != 0 for byte in (tmp_path / "model.safetensors").read_bytes()))
        return tensors[name]

    write_checkpoint(tmp_path, infos(tensors), whole_tensors(value))
    assert filled == sorted(filled) and filled[-1] > filled[0]


def test_hash_is_of_the_content(tmp_path: Path, tensors: dict[str, Tensor], write_model: WriteModel) -> None:
    whole = weights_hash(write_model("whole", tensors))
    assert weights_hash(write_model("sharded", tensors, max_shard_bytes=40)) == whole
    turned = dict(reversed(tensors.items()))
    assert weights_hash(write_model("turned", turned)) == whole
    changed = tensors | {"scalar": torch.tensor(1.5000001)}
    renamed = {name.replace("scalar", "number"): its for name, its in tensors.items()}
    reshaped = tensors | {"embedding.weight": tensors["embedding.weight"].reshape(4, 7)}
    others = {weights_hash(write_model(str(i), its)) for i, its in enumerate((changed, renamed, reshaped))}
    assert len(others | {whole}) == 4


def test_hash_is_pinned(write_model: WriteModel) -> None:
    """Hessian folders on disk carry it, so it cannot change."""
    model = write_model("model", {"a": torch.arange(6.0).reshape(2, 3), "b": torch.tensor([1, 2])})
    assert weights_hash(model) == "samples:835ee8bf7d644c1abe953d17d4799f6c75e7183d8e7de1d287996326b5a189a4"


def test_hash_of_a_large_tensor_looks_at_both_ends(write_model: WriteModel) -> None:
    """And at what lies between, though not at all of it."""
    whole = torch.randn(300, 300)
    hashes = {weights_hash(write_model("whole", {"w": whole}))}
    for number, place in enumerate((0, -1)):
        changed = whole.clone()
        changed.view(-1)[place] += 1
        hashes.add(weights_hash(write_model(f"end{number}", {"w": changed})))
    hashes.add(
        weights_hash(write_model("middle", {"w": torch.cat([whole[:1], whole[1:-1] + 1, whole[-1:]])}))
    )
    assert len(hashes) == 4


def test_blocks_are_evenly_spaced_and_few() -> None:
    assert blocks(0) == []
    assert blocks(100) == [(0, 100)]
    found = blocks(10**9)
    assert found[0] == (0, 4096) and found[-1] == (10**9 - 4096, 10**9)
    steps = [later - sooner for (sooner, _), (later, _) in itertools.pairwise(found)]
    assert max(steps) - min(steps) <= 1 and len(found) == 8


def test_headers_need_no_torch(write_model: WriteModel, tensors: dict[str, Tensor]) -> None:
    folder = write_model("model", tensors)
    script = (
        "import sys\n"
        "from merging.files.checkpoints import open_checkpoint\n"
        "checkpoint = open_checkpoint(sys.argv[1], label='it')\n"
        "checkpoint.digest()\n"
        "print(checkpoint.tensors['embedding.weight'].shape, 'torch' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(folder)], capture_output=True, text=True, check=True
    )
    assert done.stdout == "(7, 4) False\n"


def test_no_such_folder(tmp_path: Path) -> None:
    with pytest.raises(
        CheckpointError, match=r"models\['a'\]: .*bert-base-uncased is no folder. Pass a model"
    ):
        open_checkpoint(tmp_path / "bert-base-uncased", label="models['a']")


def test_no_model_folder(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"base: .* has neither model\.safetensors nor .*, but nothing"):
        open_checkpoint(tmp_path, label="base")
    (tmp_path / "notes.txt").touch()
    with pytest.raises(CheckpointError, match=r"but notes\.txt"):
        open_checkpoint(tmp_path, label="base")


def test_pickled_weights(tmp_path: Path) -> None:
    (tmp_path / "pytorch_model.bin").touch()
    with pytest.raises(
        CheckpointError, match=r"holds pytorch_model\.bin, but no model\.safetensors. Convert it"
    ):
        open_checkpoint(tmp_path, label="base")


def test_missing_shard(write_model: WriteModel, tensors: dict[str, Tensor]) -> None:
    folder = write_model("model", tensors, max_shard_bytes=100)
    shards = sorted(folder.glob("*.safetensors"))
    shards[1].unlink()
    with pytest.raises(CheckpointError, match=rf"lacks {shards[1].name}, 1 of the {len(shards)} shards"):
        open_checkpoint(folder, label="base")


def test_shard_without_a_tensor_of_the_index(write_model: WriteModel, tensors: dict[str, Tensor]) -> None:
    folder = write_model("model", tensors, max_shard_bytes=100)
    index = folder / "model.safetensors.index.json"
    index.write_text(index.read_text().replace('"scalar"', '"vector"'))
    with pytest.raises(
        CheckpointError, match=r"names 'vector', which model-.* does not hold \(1 tensors in all"
    ):
        open_checkpoint(folder, label="base")


@pytest.mark.parametrize("text", ["{", "[]", '{"weight_map": 3}', "{}"])
def test_damaged_index(write_model: WriteModel, tensors: dict[str, Tensor], text: str) -> None:
    folder = write_model("model", tensors, max_shard_bytes=100)
    (folder / "model.safetensors.index.json").write_text(text)
    with pytest.raises(CheckpointError, match=r"index\.json is damaged"):
        open_checkpoint(folder, label="base")


def test_truncated_anywhere(write_model: WriteModel, tensors: dict[str, Tensor]) -> None:
    """Whatever the length at which a copy stopped, opening says so; no tensor is read for that."""
    folder = write_model("model", tensors)
    file = folder / "model.safetensors"
    whole = file.read_bytes()
    for length in (0, 4, 8, 100, len(whole) // 2, len(whole) - 1):
        file.write_bytes(whole[:length])
        with pytest.raises(CheckpointError, match=r"model\.safetensors is truncated"):
            open_checkpoint(folder, label="base")


@pytest.mark.parametrize(
    "header",
    [
        b"not json",
        b"[1, 2]",
        b'{"a": {"dtype": "F32", "shape": [2]}}',
        b'{"a": {"dtype": "F32", "shape": [2], "data_offsets": [0]}}',
        b'{"a": 3}',
        b'{"a": {"dtype": "F32", "shape": ["x"], "data_offsets": [0, 8]}}',
        b'{"a": {"shape": [2], "data_offsets": [0, 8]}}',
    ],
)
def test_damaged_header(tmp_path: Path, header: bytes) -> None:
    (tmp_path / "model.safetensors").write_bytes(struct.pack("<Q", len(header)) + header)
    with pytest.raises(CheckpointError, match=r"model\.safetensors is no safetensors file"):
        open_checkpoint(tmp_path, label="base")


def test_unknown_dtype(tmp_path: Path) -> None:
    header = b'{"a": {"dtype": "F4", "shape": [2], "data_offsets": [0, 1]}}'
    (tmp_path / "model.safetensors").write_bytes(struct.pack("<Q", len(header)) + header + b"\0")
    with pytest.raises(CheckpointError, match=r"tensor 'a' has the dtype F4, known are F64, "):
        open_checkpoint(tmp_path, label="base")


def test_file_that_shrinks_after_it_was_opened(write_model: WriteModel, tensors: dict[str, Tensor]) -> None:
    folder = write_model("model", tensors)
    checkpoint = open_checkpoint(folder, label="base")
    (folder / "model.safetensors").write_bytes(b"")
    with pytest.raises(CheckpointError, match="became shorter while it was read"):
        checkpoint.read("embedding.weight")


def test_too_little_disk_space_is_seen_before_writing(
    tmp_path: Path, tensors: dict[str, Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(tmp_path)._replace(free=100)
    monkeypatch.setattr(checkpoints.shutil, "disk_usage", lambda _: usage)
    with pytest.raises(
        DiskSpaceError, match=r"needs \d\.\d kB, but only 0\.1 kB are free .* Free some space"
    ):
        write_checkpoint(tmp_path, infos(tensors), whole_tensors(tensors.__getitem__))
    assert not list(tmp_path.iterdir())


def test_disk_that_becomes_full(
    tmp_path: Path, tensors: dict[str, Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(descriptor: int, data: memoryview, place: int) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(checkpoints.os, "pwrite", full)
    with pytest.raises(DiskSpaceError, match="became full while writing"):
        write_checkpoint(tmp_path, infos(tensors), whole_tensors(tensors.__getitem__))
