"""PyTorch's own checkpoint files (``pytorch_model.bin``), read without running what they contain.

``torch.load(weights_only=True)`` builds tensors and refuses anything else; ``mmap=True`` leaves the
numbers on the disk until a piece is asked for.
"""

from __future__ import annotations

import pickle
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from merging.errors import CheckpointError
from merging.files.checkpoints import TensorInfo, current_name, dtype_name
from merging.files.fingerprint import fingerprint

if TYPE_CHECKING:
    from torch import Tensor


class PickledCheckpoint:
    """Tensors of one or several ``.bin`` files, by name; numbers are read when asked for."""

    def __init__(self, files: Sequence[Path], *, label: str) -> None:
        """Map ``files``; ``label`` names this checkpoint in error messages.

        Raises:
            CheckpointError: a file is damaged, or holds something else than tensors by name.
        """
        self.label = label
        self._tensors: dict[str, Tensor] = {}
        for file in files:
            self._tensors |= _load(file, label)
        self._infos = {
            name: TensorInfo(dtype_name(tensor.dtype), tuple(tensor.shape))
            for name, tensor in self._tensors.items()
        }

    @property
    def tensors(self) -> Mapping[str, TensorInfo]:
        """Shape and dtype of every tensor."""
        return self._infos

    def read(self, name: str) -> Tensor:
        """One tensor, in the dtype it is stored in; a copy."""
        return self._tensors[name].clone()

    def read_piece(self, name: str, start: int, stop: int) -> Tensor:
        """Elements of one tensor, counted row by row, as a vector; a copy."""
        return self._tensors[name].reshape(-1)[start:stop].clone()

    def digest(self) -> str:
        """Name the content; see ``merging.files.checkpoints.Checkpoint.digest``."""
        import torch

        def read(name: str, start: int, stop: int) -> bytes:
            data = self._tensors[name].contiguous().reshape(-1).view(torch.uint8)
            return bytes(data[start:stop].numpy().data)

        return fingerprint(self._infos, read)


def _load(file: Path, label: str) -> dict[str, Tensor]:
    import torch

    try:
        loaded: Any = _torch_load(file)
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"{label}: {file} holds more than tensors, or is damaged, and is not loaded: a pickle can "
            "run any code. If you trust it, load it yourself and call save_pretrained(folder), which writes "
            "safetensors."
        ) from error
    except (RuntimeError, EOFError) as error:
        raise CheckpointError(
            f"{label}: {file} is truncated or no PyTorch checkpoint ({error}). Copy or download it again."
        ) from error
    wrong = (
        next((key for key, value in loaded.items() if not isinstance(value, torch.Tensor)), None)
        if isinstance(loaded, dict)
        else type(loaded).__name__
    )
    if wrong is not None:
        raise CheckpointError(
            f"{label}: {file} is no state dict of tensors by name: {wrong!r} is something else. Load it "
            "yourself and call save_pretrained(folder), which writes safetensors."
        )
    return {current_name(str(name)): tensor.detach() for name, tensor in loaded.items()}


def _torch_load(file: Path) -> Any:
    """Load a file, mapped where its format allows."""
    import zipfile

    import torch

    # files from before PyTorch 1.6 are no zip archives and cannot be mapped: they are read as a whole
    return torch.load(file, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(file))
