"""Adapters that peft itself made of tiny models, with the dense model that peft merges them to."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor


@dataclass(frozen=True)
class Made:
    """An adapter folder, and what peft's own ``merge_and_unload`` makes of it."""

    folder: Path
    effective: dict[str, Tensor]


MakeAdapter = Callable[..., Made]


def gpt2() -> Any:
    """A GPT-2 classifier of one layer: Conv1D, embeddings, a head."""
    import transformers

    config = transformers.GPT2Config(
        n_layer=1,
        n_head=2,
        n_embd=8,
        vocab_size=11,
        n_positions=6,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=1,
    )
    return transformers.GPT2ForSequenceClassification(config)


def bert() -> Any:
    """A BERT classifier of two layers: linear layers with biases, square and not, and a head."""
    import transformers

    config = transformers.BertConfig(
        hidden_size=8,
        intermediate_size=12,
        num_hidden_layers=2,
        num_attention_heads=2,
        vocab_size=11,
        max_position_embeddings=6,
    )
    return transformers.BertForSequenceClassification(config)


def llama() -> Any:
    """A Llama of one layer whose head is not tied: adapters of its embeddings store those whole, too."""
    import transformers

    config = transformers.LlamaConfig(
        hidden_size=8,
        intermediate_size=12,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        vocab_size=11,
        tie_word_embeddings=False,
    )
    return transformers.LlamaForCausalLM(config)


def convolution() -> Any:
    """A convolution and a linear layer."""
    return torch.nn.ModuleDict(
        {"conv": torch.nn.Conv2d(3, 4, kernel_size=2), "layer": torch.nn.Linear(6, 4, bias=False)}
    )


ARCHITECTURES = {"gpt2": gpt2, "bert": bert, "llama": llama, "convolution": convolution}


@pytest.fixture(scope="session")
def bases() -> dict[str, Any]:
    """The frozen models by name."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return {name: make().eval() for name, make in ARCHITECTURES.items()}


@pytest.fixture
def make_adapter(bases: dict[str, Any], tmp_path: Path) -> MakeAdapter:
    """``make_adapter(architecture, name, seed, config)`` "trains" an adapter: its tensors become random."""
    import peft

    def make(architecture: str, name: str, seed: int, config: dict[str, Any]) -> Made:
        settings = dict(config)
        kind = peft.IA3Config if settings.pop("peft_type", "LORA") == "IA3" else peft.LoraConfig
        generator = torch.Generator().manual_seed(seed)
        with torch.random.fork_rng(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            model = peft.get_peft_model(copy.deepcopy(bases[architecture]), kind(**settings))
            for parameter in model.parameters():
                if parameter.requires_grad:
                    parameter.data.add_(torch.randn(parameter.shape, generator=generator), alpha=0.3)
            model.save_pretrained(tmp_path / name)
            merged = model.merge_and_unload()
        return Made(tmp_path / name, {key: its.detach().clone() for key, its in merged.state_dict().items()})

    return make
