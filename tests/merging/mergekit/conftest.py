"""Tiny Llama-like folders and mergekit files."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from merging.files.checkpoints import open_checkpoint
from merging.mergekit.run import merge_file
from safetensors.torch import save_file
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import Tensor

WORDS = ("[UNK]", "good", "bad", "film")


def tensors(seed: int, *, num_layers: int = 3, num_rows: int = 4) -> dict[str, Tensor]:
    """Weights that are close to those of seed 0, as fine-tuned ones are."""
    names = {"model.embed_tokens.weight": (num_rows, 6), "model.norm.weight": (6,)}
    names["lm_head.weight"] = (num_rows, 6)
    for layer in range(num_layers):
        for name in ("self_attn.q_proj", "mlp.up_proj"):
            names[f"model.layers.{layer}.{name}.weight"] = (6, 6)
    base, own = torch.Generator().manual_seed(0), torch.Generator().manual_seed(seed)
    found = {}
    for name, shape in names.items():
        found[name] = torch.randn(shape, generator=base)
        if seed:
            found[name] = found[name] + 0.1 * torch.randn(shape, generator=own)
    return found


@pytest.fixture
def write_llama(tmp_path: Path) -> Callable[..., Path]:
    """``write_llama(name, seed, words=...)`` makes a model folder with a tokenizer of these words."""

    def write(
        name: str, seed: int, *, words: tuple[str, ...] = WORDS, num_layers: int = 3, **config: Any
    ) -> Path:
        folder = tmp_path / name
        folder.mkdir()
        save_file(tensors(seed, num_layers=num_layers, num_rows=len(words)), folder / "model.safetensors")
        values = {
            "model_type": "llama",
            "vocab_size": len(words),
            "num_hidden_layers": num_layers,
            "bos_token_id": 1,
        }
        (folder / "config.json").write_text(json.dumps(values | config))
        tokenizer = Tokenizer(models.WordLevel({word: number for number, word in enumerate(words)}, "[UNK]"))
        tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
        tokenizer.save(str(folder / "tokenizer.json"))
        return folder

    return write


@pytest.fixture
def three(write_llama: Callable[..., Path]) -> list[Path]:
    """m0, and m1 and m2 near it."""
    return [write_llama(f"m{seed}", seed) for seed in range(3)]


@pytest.fixture
def run(tmp_path: Path) -> Callable[..., dict[str, Tensor]]:
    """``run(values)`` merges what a file with these values says; returns the merged tensors."""

    def merge(values: Mapping[str, Any], **arguments: Any) -> dict[str, Tensor]:
        file = tmp_path / "merge.yml"
        file.write_text(yaml.safe_dump(dict(values)))
        merge_file(file, out=tmp_path / "out", **arguments)
        merged = open_checkpoint(tmp_path / "out", label="out")
        return {name: merged.read(name) for name in merged.tensors}

    return merge
