from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from merging import models
from merging.errors import CheckpointError
from merging.merge.layout import transposed_weights
from merging.merge.streaming import open_merge
from safetensors.torch import load_file, save_file


@pytest.fixture
def gpt2(tmp_path: Path) -> Path:
    config = transformers.GPT2Config(
        vocab_size=20, n_embd=4, n_layer=2, n_head=2, bos_token_id=0, eos_token_id=0
    )
    with models.quiet():
        transformers.GPT2LMHeadModel(config).save_pretrained(tmp_path / "gpt2")
    return tmp_path / "gpt2"


def test_conv1d(gpt2: Path) -> None:
    found = transposed_weights(gpt2, load_file(gpt2 / "model.safetensors"))
    assert len(found) == 8
    assert "transformer.h.1.mlp.c_fc.weight" in found
    assert "transformer.wte.weight" not in found
    bare = ["h.0.attn.c_attn.weight", "h.0.attn.c_attn.bias", "wte.weight"]
    assert transposed_weights(gpt2, bare) == {"h.0.attn.c_attn.weight"}


def test_linear_layers_are_not_transposed(tmp_path: Path) -> None:
    config = transformers.BertConfig(
        vocab_size=9, hidden_size=4, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8
    )
    with models.quiet():
        transformers.BertModel(config).save_pretrained(tmp_path / "bert")
    assert not transposed_weights(tmp_path / "bert", load_file(tmp_path / "bert" / "model.safetensors"))


def test_unknown_architecture(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "nobody knows"}')
    with pytest.raises(CheckpointError, match="cannot tell which weights are stored transposed"):
        transposed_weights(tmp_path, ["a"])


def test_methods_that_work_by_rows_are_told(gpt2: Path) -> None:
    """Rows of a transposed weight are its columns: Model Stock's filters are the outputs of a layer."""
    merge = open_merge(
        method="model_stock",
        options={"filter_wise": True},
        base=gpt2,
        models={"a": gpt2, "b": gpt2},
        extras={},
    )
    assert "transformer.h.1.mlp.c_fc.weight" in merge.transposed
    merge = open_merge(method="model_stock", options={}, base=gpt2, models={"a": gpt2, "b": gpt2}, extras={})
    assert not merge.transposed


def test_what_has_no_biases_is_not_looked_up(gpt2: Path, tmp_path: Path) -> None:
    """No Conv1D is without: transformers is asked, and its memory counted, only for models that have them."""
    tensors = {"a.weight": torch.ones(3, 4), "b.weight": torch.ones(3, 2), "b.bias": torch.ones(3)}
    for name in "abc":
        (tmp_path / name).mkdir()
        save_file(tensors, tmp_path / name / "model.safetensors")
        (tmp_path / name / "config.json").write_text('{"model_type": "nobody knows"}')
    call: dict[str, Any] = {"method": "della", "options": {}, "extras": {}}
    small = open_merge(**call, base=tmp_path / "a", models={"b": tmp_path / "b", "c": tmp_path / "c"})
    assert not small.transposed
    asked = open_merge(**call, base=gpt2, models={"b": gpt2, "c": gpt2})
    assert asked.transposed
    assert asked.cost().memory_bytes - small.cost().memory_bytes > 150 * 2**20
