"""Open whatever holds a model: safetensors or PyTorch files, sharded or not, or an adapter on its base."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Protocol

from merging.errors import CheckpointError
from merging.files.checkpoints import INDEX_NAME, WEIGHTS_NAME, current_name, open_checkpoint
from merging.merge.compatibility import read_config
from merging.sources import Source
from merging.sources.adapter import AdapterSource
from merging.sources.adapter_folder import AdapterFolder, is_adapter
from merging.sources.pickled import PickledCheckpoint

PICKLED_NAME = "pytorch_model.bin"
PICKLED_INDEX_NAME = "pytorch_model.bin.index.json"

_QUANTISED_NAME = re.compile(
    r"\.(qweight|qzeros|g_idx|SCB|weight_format|absmax|nested_absmax|quant_map|nested_quant_map|weight_scale_inv)$"
    r"|\.quant_state\."
)
"""Tensors of GPTQ, AWQ, bitsandbytes and block-wise 8-bit formats."""


class Model(Source, Protocol):
    """A source that is a whole model, and can name its content."""

    def digest(self) -> str:
        """Hex SHA-256 of everything in it."""


def open_model(
    folder: str | os.PathLike[str],
    *,
    label: str,
    base: Model | None = None,
    base_folder: str | os.PathLike[str] | None = None,
) -> Model:
    """Open a model folder, or an adapter as the model that it makes of its base.

    Reads headers only (a PyTorch file from before 1.6 is read as a whole).

    Args:
        folder: a folder in the form of Hugging Face's or peft's ``save_pretrained``.
        label: what the folder is, for error messages: ``"base"``, ``"models['sst2']"``.
        base: what adapters were trained on.
        base_folder: where the base comes from; an adapter that names another base gets a note.

    Raises:
        CheckpointError: no such folder, incomplete or damaged, quantised, or an adapter without its base.
    """
    folder = Path(folder)
    if is_adapter(folder):
        whole = [name for name in (WEIGHTS_NAME, INDEX_NAME, PICKLED_NAME) if (folder / name).is_file()]
        if whole:
            raise CheckpointError(
                f"{label}: {folder} holds both an adapter and a whole model ({whole[0]}). Pass a folder "
                "with the one that is meant."
            )
        if base is None:
            raise CheckpointError(
                f"{label}: {folder} is an adapter, and no base is given. Pass the model that it was trained "
                "on as base."
            )
        return AdapterSource(base, folder, label=label, base_folder=base_folder)
    if folder.is_dir():
        _refuse_quantised_files(folder, label)
    if (folder / PICKLED_NAME).is_file() or (folder / PICKLED_INDEX_NAME).is_file():
        safe = (folder / WEIGHTS_NAME).is_file() or (folder / INDEX_NAME).is_file()
        model: Model = open_checkpoint(folder, label=label) if safe else _open_pickled(folder, label)
    else:
        model = open_checkpoint(folder, label=label)
    _refuse_quantised_tensors(model)
    return model


def open_parameters(folder: str | os.PathLike[str], *, label: str) -> Model:
    """Open what was trained: a model folder, or the tensors of an adapter by themselves.

    Raises:
        CheckpointError: as for :func:`open_model`.
    """
    if is_adapter(folder):
        return AdapterFolder(folder, label=label)
    return open_model(folder, label=label)


def _open_pickled(folder: Path, label: str) -> PickledCheckpoint:
    if not (folder / PICKLED_INDEX_NAME).is_file():
        return PickledCheckpoint([folder / PICKLED_NAME], label=label)
    index = folder / PICKLED_INDEX_NAME
    try:
        weight_map = json.loads(index.read_text())["weight_map"]
        shards = sorted(set(map(str, weight_map.values())))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(
            f"{label}: {index} is damaged: {error!r}. Copy or download it again."
        ) from error
    missing = [shard for shard in shards if not (folder / shard).is_file()]
    if missing:
        raise CheckpointError(
            f"{label}: {folder} lacks {', '.join(missing)}, {len(missing)} of the {len(shards)} shards that "
            f"{PICKLED_INDEX_NAME} names. Copy or download the folder again."
        )
    checkpoint = PickledCheckpoint([folder / shard for shard in shards], label=label)
    lost = sorted(name for name in weight_map if current_name(name) not in checkpoint.tensors)
    if lost:
        raise CheckpointError(
            f"{label}: {index} names {lost[0]!r}, which {weight_map[lost[0]]} does not hold ({len(lost)} "
            "tensors in all). Copy or download the folder again."
        )
    return checkpoint


def _refuse_quantised_files(folder: Path, label: str) -> None:
    if (folder / "config.json").is_file():
        read_config(folder, label=label)  # refuses a quantization_config
    files = sorted(folder.glob("*.gguf"))
    if files and not any(folder.glob("*.safetensors")) and not any(folder.glob("*.bin")):
        raise CheckpointError(
            f"{label}: {folder} holds {files[0].name}. GGUF files cannot be merged: use the model that they "
            "were made of, in bfloat16 or float32, and convert the result."
        )


def _refuse_quantised_tensors(model: Source) -> None:
    for name, info in model.tensors.items():
        whole_numbers = info.dtype in ("U8", "I8", "I32") and name.endswith(".weight")
        if _QUANTISED_NAME.search(name) or info.dtype.startswith("F8") or whole_numbers:
            raise CheckpointError(
                f"{model.label}: {name!r} ({info.dtype}) belongs to a quantised model, which cannot be "
                "merged. Use the model in bfloat16 or float32 (and quantise the result again)."
            )
