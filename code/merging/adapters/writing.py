"""Write adapter folders that peft loads: LoRA with scaling 1, and (IA)3."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from merging.sources.adapter_folder import CONFIG_NAME, PREFIX, WEIGHTS_NAME

if TYPE_CHECKING:
    from torch import Tensor
    from torch import dtype as TorchDtype

    from merging.adapters.low_rank import Update


@dataclass(frozen=True)
class Layout:
    """How the factors of one module are stored."""

    is_embedding: bool = False
    a_tail: tuple[int, ...] = ()
    """Shape of A after the rank; a convolution has (inputs, height, width). Empty: (inputs,)."""
    b_tail: tuple[int, ...] = ()
    """Shape of B after (outputs, rank); a convolution has (1, 1)."""


def write_lora(
    folder: Path,
    updates: Mapping[str, Update],
    *,
    layouts: Mapping[str, Layout],
    saved: Mapping[str, Tensor],
    settings: Mapping[str, Any],
    dtype: TorchDtype,
) -> None:
    """Write a LoRA adapter.

    Args:
        folder: where to write; it exists.
        updates: by path of the module; ranks may differ. Scalings go into B, so that alpha is the rank.
        layouts: by path of the module, where it is no linear layer.
        saved: tensors stored whole, by their names in the file.
        settings: what ``adapter_config.json`` says beside ranks, scaling and modules.
        dtype: of the factors.
    """
    tensors = dict(saved)
    for module, update in updates.items():
        layout = layouts.get(module, Layout())
        a = update.a.reshape(update.rank, *(layout.a_tail or update.a.shape[1:]))
        b = (update.b * update.scaling).reshape(*update.b.shape, *layout.b_tail)
        names = (
            ("lora_embedding_A", "lora_embedding_B")
            if layout.is_embedding
            else ("lora_A.weight", "lora_B.weight")
        )
        for name, tensor in zip(names, (a, b), strict=True):
            tensors[f"{PREFIX}{module}.{name}"] = tensor.to(dtype)
    ranks = {module: update.rank for module, update in updates.items()}
    usual = Counter(ranks.values()).most_common(1)[0][0]
    others = {module: rank for module, rank in sorted(ranks.items()) if rank != usual}
    config = {
        **settings,
        "peft_type": "LORA",
        "inference_mode": True,
        "target_modules": sorted(updates),
        "r": usual,
        "lora_alpha": usual,  # scalings are 1
        "rank_pattern": others,
        "alpha_pattern": others,
        "use_rslora": False,
        "lora_dropout": 0.0,
        "init_lora_weights": True,
    }
    _write(folder, config, tensors)


def write_vectors(
    folder: Path,
    vectors: Mapping[str, Tensor],
    *,
    on_inputs: Collection[str],
    saved: Mapping[str, Tensor],
    settings: Mapping[str, Any],
) -> None:
    """Write an (IA)3 adapter.

    Args:
        folder: where to write; it exists.
        vectors: by path of the module, (length,).
        on_inputs: modules whose inputs are scaled (feed-forward modules); the others' outputs are.
        saved: tensors stored whole, by their names in the file.
        settings: what ``adapter_config.json`` says beside the modules.
    """
    tensors = dict(saved)
    for module, vector in vectors.items():
        tensors[f"{PREFIX}{module}.ia3_l"] = vector.reshape((1, -1) if module in on_inputs else (-1, 1))
    config = {
        **settings,
        "peft_type": "IA3",
        "inference_mode": True,
        "target_modules": sorted(vectors),
        "feedforward_modules": sorted(on_inputs),
        "init_ia3_weights": True,
    }
    _write(folder, config, tensors)


def _write(folder: Path, config: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
    from safetensors.torch import save_file

    (folder / CONFIG_NAME).write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
    contiguous = {name: tensor.contiguous() for name, tensor in sorted(tensors.items())}
    save_file(contiguous, folder / WEIGHTS_NAME, metadata={"format": "pt"})
