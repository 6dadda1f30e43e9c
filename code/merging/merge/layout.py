"""Which weights are stored transposed, found by the class of the module that owns them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from merging.errors import CheckpointError
from merging.files.checkpoints import TensorInfo


def may_be_transposed(tensors: Mapping[str, TensorInfo]) -> bool:
    """Whether some weight could be a Conv1D's, which always has a bias with an element for each column.

    Most decoders have none: they need no look at their classes, which takes seconds and much memory.

    Args:
        tensors: all of a model, by name.
    """
    for name, info in tensors.items():
        stem, _, last = name.rpartition(".")
        bias = tensors.get(f"{stem}.bias" if stem else "bias")
        if last == "weight" and bias is not None and len(info.shape) == 2 and bias.shape == info.shape[1:]:
            return True
    return False


def transposed_weights(folder: Path, names: Iterable[str]) -> frozenset[str]:
    """Weights that are stored as (inputs, outputs): those of GPT-2's Conv1D.

    The architecture that ``config.json`` names is built without weights. A shape says nothing: square
    matrices look alike both ways.

    Args:
        folder: of the model.
        names: of its tensors, as in its files.

    Returns:
        Those of ``names`` that are transposed.

    Raises:
        CheckpointError: transformers does not know the architecture.
    """
    import torch
    import transformers
    from transformers.pytorch_utils import Conv1D

    from merging.models import quiet

    try:
        with quiet(), torch.device("meta"):
            config = transformers.AutoConfig.from_pretrained(folder)
            known = [name for name in config.architectures or [] if hasattr(transformers, name)]
            if known:
                model = getattr(transformers, known[0])(config)
            else:
                model = transformers.AutoModel.from_config(config)
    except (OSError, ValueError, KeyError) as error:
        raise CheckpointError(
            f"{folder}: cannot tell which weights are stored transposed, because transformers does not know "
            f"the architecture: {error}. Use a method or option that works elementwise."
        ) from error
    owned = [f"{name}.weight" for name, module in model.named_modules() if isinstance(module, Conv1D)]
    return frozenset(name for name in names if any(_is_same(name, other) for other in owned))


def _is_same(stored: str, loaded: str) -> bool:
    """Whether two names mean one weight; files of bare models lack the first part of the name."""
    return stored == loaded or loaded.endswith(f".{stored}") or stored.endswith(f".{loaded}")
