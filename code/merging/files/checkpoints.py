"""Safetensors checkpoints: a lazy reader, a streaming writer, and the name of their content.

The headers are read here, so that names, shapes, dtypes and completeness are known before any tensor is
touched, and without importing torch. Tensors are read one at a time into memory of their own (no memory maps:
they count as memory of the process, and a file that shrinks below one kills it).
"""

from __future__ import annotations

import errno
import json
import math
import os
import shutil
import struct
import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from threading import Lock, local
from typing import TYPE_CHECKING, Any

from merging.errors import CheckpointError, DiskSpaceError
from merging.files.fingerprint import fingerprint
from merging.files.sizes import size_text

if TYPE_CHECKING:
    from torch import Tensor
    from torch import dtype as TorchDtype

WEIGHTS_NAME = "model.safetensors"
INDEX_NAME = "model.safetensors.index.json"

FLOAT_DTYPES = ("F64", "F32", "F16", "BF16")
"""Stored types that are merged; everything else is copied or refused."""

_DTYPE_BYTES = {
    **dict.fromkeys(("F64", "I64", "U64", "C64"), 8),
    **dict.fromkeys(("F32", "I32", "U32"), 4),
    **dict.fromkeys(("F16", "BF16", "I16", "U16"), 2),
    **dict.fromkeys(("I8", "U8", "BOOL", "F8_E4M3", "F8_E5M2", "F8_E8M0"), 1),
}
_TORCH_NAMES = {
    "F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16",
    "I64": "int64", "I32": "int32", "I16": "int16", "I8": "int8",
    "U64": "uint64", "U32": "uint32", "U16": "uint16", "U8": "uint8", "BOOL": "bool", "C64": "complex64",
    "F8_E4M3": "float8_e4m3fn", "F8_E5M2": "float8_e5m2", "F8_E8M0": "float8_e8m0fnu",
}  # fmt: skip
_OTHER_WEIGHTS = ("pytorch_model.bin", "pytorch_model.bin.index.json", "tf_model.h5", "flax_model.msgpack")
_MAX_BUFFER_BYTES = 2**22
"""Larger buffers are given back after use."""
_THREAD = local()
"""A buffer of each thread that reads."""


@dataclass(frozen=True)
class TensorInfo:
    """What the header says of one tensor."""

    dtype: str
    """In the words of safetensors: "F32", "BF16", "I64", ..."""
    shape: tuple[int, ...]

    @property
    def num_bytes(self) -> int:
        """Stored size."""
        return math.prod(self.shape) * _DTYPE_BYTES[self.dtype]

    @property
    def num_elements(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)


class _File:
    """A file that is opened when it is first read; several threads may read it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._descriptor: int | None = None
        self._lock = Lock()

    def read_into(self, data: memoryview, place: int) -> None:
        """Fill a buffer with the bytes from ``place`` on; one call reads at most 2 GiB."""
        descriptor = self._descriptor if self._descriptor is not None else self._open()
        while data:
            count = os.preadv(descriptor, [data], place)
            if not count:
                raise CheckpointError(
                    f"{self.path} became shorter while it was read. Copy or download it again."
                )
            if count == len(data):
                return
            data, place = data[count:], place + count

    def _open(self) -> int:
        with self._lock:
            if self._descriptor is None:
                self._descriptor = os.open(self.path, os.O_RDONLY)
                weakref.finalize(self, os.close, self._descriptor)
            return self._descriptor


_RENAMED = {"LayerNorm.gamma": "LayerNorm.weight", "LayerNorm.beta": "LayerNorm.bias"}


@dataclass(frozen=True)
class _Stored:
    """Where one tensor lies."""

    info: TensorInfo
    file: _File
    start: int


class Checkpoint:
    """Tensors of one or several safetensors files, by name; opening reads the headers only."""

    def __init__(self, files: Sequence[Path], *, label: str) -> None:
        """Read the headers of ``files``; ``label`` names this checkpoint in error messages.

        Raises:
            CheckpointError: a file that is no safetensors file, or is shorter than its header says.
        """
        self.label = label
        self._stored: dict[str, _Stored] = {}
        self.metadata: dict[str, str] = {}
        for file in files:
            self._read_header(file)
        self._infos = {name: stored.info for name, stored in self._stored.items()}

    @property
    def tensors(self) -> Mapping[str, TensorInfo]:
        """Shape and dtype of every tensor."""
        return self._infos

    def read(self, name: str) -> Tensor:
        """Read one tensor, in the dtype it is stored in."""
        info = self._stored[name].info
        return self.read_piece(name, 0, info.num_elements).reshape(info.shape)

    def read_piece(self, name: str, start: int, stop: int) -> Tensor:
        """Read elements of one tensor, counted row by row, as a vector."""
        import torch

        piece = torch.empty(stop - start, dtype=torch_dtype(self._stored[name].info.dtype))
        self.read_into(name, start, stop, piece)
        return piece

    def read_into(self, name: str, start: int, stop: int, out: Tensor) -> None:
        """Read elements of one tensor into a vector of its dtype."""
        stored = self._stored[name]
        stored.file.read_into(_bytes_of(out), stored.start + start * out.element_size())

    def read_for_computing(self, name: str, start: int, stop: int) -> Tensor:
        """Read elements of one tensor as a vector of float32 (float64 where it is) that is the caller's own.

        Narrow numbers pass through a buffer of the thread, which stays in the processor's cache.
        """
        import torch

        stored = self._stored[name]
        dtype = torch_dtype(stored.info.dtype)
        if dtype.itemsize >= 4:
            piece = self.read_piece(name, start, stop)
            return piece if dtype in (torch.float32, torch.float64) else piece.float()
        num_bytes = (stop - start) * dtype.itemsize
        buffer: Tensor | None = getattr(_THREAD, "buffer", None)
        if buffer is None or buffer.numel() < num_bytes:
            buffer = torch.empty(num_bytes, dtype=torch.uint8)
            if num_bytes <= _MAX_BUFFER_BYTES:
                _THREAD.buffer = buffer
        raw = buffer[:num_bytes]
        stored.file.read_into(raw.numpy().data, stored.start + start * dtype.itemsize)
        return raw.view(dtype).float()

    def digest(self) -> str:
        """Name the content of all tensors, whatever the files they are spread over; reads a small part.

        Returns:
            See :func:`merging.files.fingerprint.fingerprint`.
        """

        def read(name: str, start: int, stop: int) -> bytes:
            stored = self._stored[name]
            data = bytearray(stop - start)
            stored.file.read_into(memoryview(data), stored.start + start)
            return bytes(data)

        return fingerprint(self.tensors, read)

    def _read_header(self, path: Path) -> None:
        header, start = _parse_header(path)
        size = path.stat().st_size
        file = _File(path)
        self.metadata.update(header.pop("__metadata__", {}))
        for name, entry in header.items():
            try:
                dtype = str(entry["dtype"])
                shape = tuple(int(length) for length in entry["shape"])
                first, last = (start + int(offset) for offset in entry["data_offsets"])
            except (TypeError, KeyError, ValueError) as error:
                raise CheckpointError(
                    f"{path} is no safetensors file: its header says {entry!r} of {name!r}."
                ) from error
            if dtype not in _DTYPE_BYTES:
                raise CheckpointError(
                    f"{path}: tensor {name!r} has the dtype {dtype}, known are {', '.join(_DTYPE_BYTES)}."
                )
            info = TensorInfo(dtype, shape)
            if last > size or last - first != info.num_bytes:
                raise CheckpointError(
                    f"{path} is truncated: tensor {name!r} needs the bytes up to {last}, the file has "
                    f"{size}. Copy or download it again."
                )
            self._stored[current_name(name)] = _Stored(info, file, first)


def current_name(name: str) -> str:
    """The name that transformers gives a tensor today; BERT's first files say gamma and beta of norms."""
    for old, new in _RENAMED.items():
        if name.endswith(old):
            return name.removesuffix(old) + new
    return name


def _parse_header(path: Path) -> tuple[dict[str, Any], int]:
    """Read the JSON at the head of a safetensors file.

    Returns:
        The header, and the position of the first byte of data.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        prefix = file.read(8)
        length = struct.unpack("<Q", prefix)[0] if len(prefix) == 8 else size
        if 8 + length > size:
            raise CheckpointError(
                f"{path} is truncated or no safetensors file: it has {size} bytes and ends inside its "
                "header. Copy or download it again."
            )
        try:
            header = json.loads(file.read(length))
        except ValueError as error:
            raise CheckpointError(
                f"{path} is no safetensors file: its header is no JSON ({error})."
            ) from error
    if not isinstance(header, dict):
        raise CheckpointError(f"{path} is no safetensors file: its header is no JSON object.")
    return header, 8 + length


def open_checkpoint(folder: str | os.PathLike[str], *, label: str) -> Checkpoint:
    """Open the weights of a model folder, one file or shards with an index.

    Args:
        folder: a folder in the form of Hugging Face's ``save_pretrained``.
        label: what the folder is, for error messages: ``"base"``, ``"models['sst2']"``.

    Raises:
        CheckpointError: no such folder, no safetensors in it, a shard that the index names is missing, or a
            file is truncated.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise CheckpointError(
            f"{label}: {folder} is no folder. Pass a model folder; a Hub id has to be downloaded first "
            "(`merging download --model ID`, DownloadModelJob)."
        )
    if (folder / INDEX_NAME).is_file():
        return _open_shards(folder, label)
    if (folder / WEIGHTS_NAME).is_file():
        return Checkpoint([folder / WEIGHTS_NAME], label=label)
    other = [name for name in _OTHER_WEIGHTS if (folder / name).is_file()]
    if other:
        raise CheckpointError(
            f"{label}: {folder} holds {other[0]}, but no {WEIGHTS_NAME}. Convert it once: load it with "
            "transformers and call save_pretrained(folder), which writes safetensors."
        )
    present = ", ".join(sorted(path.name for path in folder.iterdir())) or "nothing"
    raise CheckpointError(
        f"{label}: {folder} is no model folder: it has neither {WEIGHTS_NAME} nor {INDEX_NAME}, but "
        f"{present}."
    )


def _open_shards(folder: Path, label: str) -> Checkpoint:
    index = folder / INDEX_NAME
    try:
        weight_map = {
            str(name): str(file) for name, file in json.loads(index.read_text())["weight_map"].items()
        }
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(
            f"{label}: {index} is damaged: {error!r}. Copy or download it again."
        ) from error
    shards = sorted(set(weight_map.values()))
    missing = [shard for shard in shards if not (folder / shard).is_file()]
    if missing:
        raise CheckpointError(
            f"{label}: {folder} lacks {', '.join(missing)}, {len(missing)} of the {len(shards)} shards that "
            f"{INDEX_NAME} names. Copy or download the folder again."
        )
    checkpoint = Checkpoint([folder / shard for shard in shards], label=label)
    lost = sorted(name for name in weight_map if current_name(name) not in checkpoint.tensors)
    if lost:
        raise CheckpointError(
            f"{label}: {index} names {lost[0]!r}, which {weight_map[lost[0]]} does not hold ({len(lost)} "
            "tensors in all). Copy or download the folder again."
        )
    return checkpoint


def weights_hash(folder: str | os.PathLike[str]) -> str:
    """Name the content of a model's weights: equal for equal tensors, however they are sharded.

    Returns:
        See :func:`merging.files.fingerprint.fingerprint`: a hash of samples.
    """
    return open_checkpoint(folder, label="model").digest()


def torch_dtype(name: str) -> TorchDtype:
    """Give the torch dtype for a name like "BF16"."""
    import torch

    dtype: TorchDtype = getattr(torch, _TORCH_NAMES[name])
    return dtype


def dtype_name(dtype: TorchDtype) -> str:
    """Give the name like "BF16" for a torch dtype."""
    text = str(dtype).removeprefix("torch.")
    return next(name for name, torch_name in _TORCH_NAMES.items() if torch_name == text)


def write_checkpoint(
    folder: Path,
    tensors: Mapping[str, TensorInfo],
    produce: Callable[[Sequence[str], Callable[[str, int, Tensor], None]], None],
    *,
    max_shard_bytes: int = 5 * 10**9,
    is_complete: Callable[[str], bool] | None = None,
    complete: Callable[[str], None] | None = None,
) -> None:
    """Write the weights of a model folder, piece by piece.

    Sizes are known beforehand, so headers come first and every piece goes straight to its place.

    Args:
        folder: where to write; it exists.
        tensors: what to write.
        produce: called with the names of one file and a sink, computes all their tensors and gives their
            pieces (name, first element, values in the promised dtype) to the sink, from any thread.
        max_shard_bytes: above this, the weights are split as ``save_pretrained`` does.
        is_complete: says whether a file of that name is there already; it is left as it is.
        complete: is told the name of each file that was written, once it is.

    Raises:
        DiskSpaceError: the disk is too small, before anything is written, or became full.
    """
    needed = sum(info.num_bytes for info in tensors.values())
    shards = _plan_shards(tensors, max_shard_bytes)
    left = {file: names for file, names in shards.items() if is_complete is None or not is_complete(file)}
    check_disk_space(folder, sum(tensors[name].num_bytes for names in left.values() for name in names))
    try:
        for file, names in left.items():
            _write_file(folder / file, {name: tensors[name] for name in names}, produce)
            if complete is not None:
                complete(file)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise DiskSpaceError(
            f"the disk of {folder} became full while writing {size_text(needed)}. "
            "Free some space and run again."
        ) from error
    if len(shards) > 1:
        weight_map = {name: file for file, names in shards.items() for name in names}
        index = {"metadata": {"total_size": needed}, "weight_map": dict(sorted(weight_map.items()))}
        (folder / INDEX_NAME).write_text(json.dumps(index, indent=2) + "\n")


def whole_tensors(
    values: Callable[[str], Tensor],
) -> Callable[[Sequence[str], Callable[[str, int, Tensor], None]], None]:
    """Make what ``write_checkpoint`` takes of a function that gives the tensor of a name."""

    def produce(names: Sequence[str], sink: Callable[[str, int, Tensor], None]) -> None:
        for name in names:
            sink(name, 0, values(name))

    return produce


def check_disk_space(folder: Path, needed_bytes: int) -> None:
    """Refuse to start what cannot be finished.

    Args:
        folder: where the output will be; it need not exist yet.
        needed_bytes: size of the output.

    Raises:
        DiskSpaceError: less than that is free.
    """
    existing = next(place for place in (folder, *folder.resolve().parents) if place.exists())
    free = shutil.disk_usage(existing).free
    if free < needed_bytes:
        raise DiskSpaceError(
            f"{folder} needs {size_text(needed_bytes)}, but only {size_text(free)} are free on its disk. "
            "Free some space or choose another output folder."
        )


def _plan_shards(tensors: Mapping[str, TensorInfo], max_shard_bytes: int) -> dict[str, list[str]]:
    """File name to tensor names; wide dtypes first in each file, which keeps every tensor aligned."""
    shards: list[list[str]] = [[]]
    filled = 0
    for name in sorted(tensors):
        size = tensors[name].num_bytes
        if shards[-1] and filled + size > max_shard_bytes:
            shards.append([])
            filled = 0
        shards[-1].append(name)
        filled += size
    for names in shards:
        names.sort(key=lambda name: (-_DTYPE_BYTES[tensors[name].dtype], name))
    if len(shards) == 1:
        return {WEIGHTS_NAME: shards[0]}
    return {
        f"model-{number:05d}-of-{len(shards):05d}.safetensors": names
        for number, names in enumerate(shards, start=1)
    }


def _write_file(
    path: Path,
    tensors: Mapping[str, TensorInfo],
    produce: Callable[[Sequence[str], Callable[[str, int, Tensor], None]], None],
) -> None:
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}  # transformers insists on the format
    end = 0
    for name, info in tensors.items():
        start, end = end, end + info.num_bytes
        header[name] = {"dtype": info.dtype, "shape": list(info.shape), "data_offsets": [start, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # data start at a multiple of 8 bytes
    prefix = struct.pack("<Q", len(text)) + text
    with path.open("wb", buffering=0) as file:
        file.truncate(len(prefix) + end)
        _write_at(file.fileno(), memoryview(prefix), 0)

        def sink(name: str, first: int, values: Tensor) -> None:
            assert values.dtype == torch_dtype(tensors[name].dtype), name
            place = len(prefix) + header[name]["data_offsets"][0] + first * values.element_size()
            _write_at(file.fileno(), _bytes_of(values.contiguous()), place)

        produce(list(tensors), sink)


def _write_at(descriptor: int, data: memoryview, place: int) -> None:
    """Write everything: one call writes at most 2 GiB."""
    while data:
        count = os.pwrite(descriptor, data, place)
        data, place = data[count:], place + count


def _bytes_of(tensor: Tensor) -> memoryview:
    """The memory of a contiguous tensor."""
    import torch

    data: memoryview = tensor.reshape(-1).view(torch.uint8).numpy().data
    return data
