"""Base with adapter as a source, against what peft's own merge_and_unload makes of it."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from merging.errors import CheckpointError
from merging.sources.adapter import AdapterSource
from merging.sources.adapter_folder import AdapterFolder, is_adapter
from merging.sources.adapter_names import match_modules, match_name
from merging.sources.memory import MemoryCheckpoint
from safetensors.torch import load_file, save_file
from torch import Tensor

QUERY = {"target_modules": ["query"], "r": 2}
CONFIGS: dict[str, tuple[str, dict[str, Any]]] = {
    "linear": ("bert", {"target_modules": ["query", "dense"], "r": 3, "lora_alpha": 5}),
    "rank-stabilised": ("bert", {**QUERY, "use_rslora": True}),
    "patterns": (
        "bert",
        {
            "target_modules": ["query", "key"],
            "r": 2,
            "rank_pattern": {"layer.0.attention.self.query": 3},
            "alpha_pattern": {"key": 7},
        },
    ),
    "head": ("bert", {**QUERY, "task_type": "SEQ_CLS"}),
    "all biases": ("bert", {**QUERY, "bias": "all"}),
    "own biases": ("bert", {**QUERY, "bias": "lora_only"}),
    "bias of B": ("bert", {**QUERY, "lora_bias": True}),
    "conv1d": ("gpt2", {"target_modules": ["c_attn", "c_proj"], "r": 2, "task_type": "SEQ_CLS"}),
    "embedding": ("gpt2", {"target_modules": ["wte", "c_attn"], "r": 2}),
    "tokens": ("bert", {**QUERY, "trainable_token_indices": {"word_embeddings": [3, 1]}}),
    "decoder with head": (
        "llama",
        {"target_modules": ["q_proj", "down_proj", "embed_tokens", "lm_head"], "r": 2, "use_rslora": True},
    ),
    "convolution": ("convolution", {"target_modules": ["conv", "layer"], "r": 2}),
    "ia3": (
        "bert",
        {
            "peft_type": "IA3",
            "target_modules": ["key", "value", "output.dense"],
            "feedforward_modules": ["output.dense"],
            "task_type": "SEQ_CLS",
        },
    ),
    "ia3 of conv1d": (
        "gpt2",
        {"peft_type": "IA3", "target_modules": ["c_attn", "c_proj"], "feedforward_modules": ["c_proj"]},
    ),
}


def source_of(model: Any, folder: Path) -> AdapterSource:
    return AdapterSource(MemoryCheckpoint(model.state_dict(), label="base"), folder, label="models['a']")


@pytest.mark.parametrize("name", CONFIGS)
def test_is_what_peft_merges_to(name: str, bases: Any, make_adapter: Any) -> None:
    architecture, config = CONFIGS[name]
    made = make_adapter(architecture, "adapter", 1, config)
    source = source_of(bases[architecture], made.folder)
    assert source.tensors.keys() == made.effective.keys()
    assert source.changed
    for key, expected in made.effective.items():
        torch.testing.assert_close(source.read(key), expected, rtol=1e-5, atol=1e-6, msg=key)
        unchanged = torch.equal(expected, bases[architecture].state_dict()[key])
        assert unchanged or key in source.changed


@pytest.mark.parametrize("name", ["linear", "conv1d", "embedding", "convolution", "ia3", "head", "tokens"])
def test_any_piece_is_bit_for_bit_a_part_of_the_whole(
    name: str, bases: Any, make_adapter: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("merging.sources.adapter._BLOCK_ELEMENTS", 16)
    architecture, config = CONFIGS[name]
    source = source_of(bases[architecture], make_adapter(architecture, "adapter", 1, config).folder)
    for key in source.changed:
        whole = source.read(key).reshape(-1)
        middle = len(whole) // 2
        for start, stop in ((0, 1), (1, len(whole)), (middle - 1, middle + 1)):
            assert torch.equal(source.read_piece(key, start, stop), whole[start:stop]), (key, start, stop)


def test_effective_weights_of_a_bfloat16_base_are_not_rounded(bases: Any, make_adapter: Any) -> None:
    made = make_adapter("bert", "adapter", 1, CONFIGS["linear"][1])
    base = {
        key: its.bfloat16() if its.is_floating_point() else its
        for key, its in bases["bert"].state_dict().items()
    }
    source = AdapterSource(MemoryCheckpoint(base, label="base"), made.folder, label="a")
    name = "bert.encoder.layer.0.attention.self.query.weight"
    update = made.effective[name] - bases["bert"].state_dict()[name]
    assert source.tensors[name].dtype == "F32"
    assert source.tensors["bert.pooler.dense.bias"].dtype == "BF16"
    torch.testing.assert_close(source.read(name), base[name].float() + update, rtol=1e-5, atol=1e-6)


def test_prefixes_may_differ(bases: Any, make_adapter: Any) -> None:
    made = make_adapter("bert", "adapter", 1, CONFIGS["head"][1])
    start = "bert."
    body = {
        key.removeprefix(start): its
        for key, its in bases["bert"].state_dict().items()
        if key.startswith(start)
    }
    source = AdapterSource(MemoryCheckpoint(body, label="base"), made.folder, label="a")
    name = "encoder.layer.0.attention.self.query.weight"
    torch.testing.assert_close(source.read(name), made.effective[start + name], rtol=1e-5, atol=1e-6)
    assert source.read("classifier.bias").equal(
        made.effective["classifier.bias"]
    )  # a head that the base lacks


def test_names() -> None:
    names = [
        "h.0.attn.q.weight",
        "h.1.attn.q.weight",
        "text.model.h.0.mlp.weight",
        "head.weight",
        "head.bias",
    ]
    assert match_modules(["h.1.attn.q"], names, owner="a") == {"h.1.attn.q": "h.1.attn.q"}
    assert match_modules(["model.h.1.attn.q"], names, owner="a") == {"model.h.1.attn.q": "h.1.attn.q"}
    assert match_modules(["model.text.h.0.mlp"], names, owner="a") == {
        "model.text.h.0.mlp": "text.model.h.0.mlp"
    }
    assert match_name("model.head.bias", names) == "head.bias"
    assert match_name("model.other.bias", names) is None


@pytest.mark.parametrize(
    ("module", "text"),
    [
        ("h.2.attn.q", "'h.2.attn.q' is not in the base. The nearest is 'h.[01].attn.q'"),
        ("attn.q", "'attn.q' is not in the base"),
        ("h.0.mlp", "fits several of the base: image.h.0.mlp, text.h.0.mlp"),
        ("video.h.0.mlp", "not in the base. The nearest is"),
        ("lm_head", "tie_word_embeddings=False"),
    ],
)
def test_modules_that_are_not_found(module: str, text: str) -> None:
    names = ["h.0.attn.q.weight", "h.1.attn.q.weight", "text.h.0.mlp.weight", "image.h.0.mlp.weight"]
    with pytest.raises(CheckpointError, match=text):
        match_modules([module], names, owner="models['a']")


def test_two_modules_never_fit_one() -> None:
    with pytest.raises(CheckpointError, match=r"both fit 'h\.0\.q'"):
        match_modules(["h.0.q", "model.h.0.q"], ["h.0.q.weight"], owner="a")


def edit_config(folder: Path, **changes: Any) -> None:
    path = folder / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"peft_type": "VERA"}, "peft_type 'VERA'; LORA and IA3 can be merged"),
        ({"use_dora": True}, "use_dora=True, which is not supported: DoRA"),
        ({"init_lora_weights": "pissa_niter_4"}, "init_lora_weights='pissa_niter_4', which changes the base"),
        ({"layer_replication": [[0, 2]]}, "layer_replication"),
        ({"r": 7}, "has rank 2, but adapter_config.json says 7"),
        ({"peft_type": "IA3"}, "says peft_type IA3, but its tensors are like"),
    ],
)
def test_kinds_that_are_refused(changes: dict[str, Any], text: str, make_adapter: Any) -> None:
    folder = make_adapter("bert", "adapter", 1, QUERY).folder
    edit_config(folder, **changes)
    with pytest.raises(CheckpointError, match=text) as caught:
        AdapterFolder(folder, label="models['a']")
    assert "models['a']" in str(caught.value)


def test_damaged_folders(make_adapter: Any, bases: Any) -> None:
    folder = make_adapter("bert", "adapter", 1, QUERY).folder
    assert is_adapter(folder)
    weights = folder / "adapter_model.safetensors"
    tensors = load_file(weights)
    first = min(tensors)

    def expect(text: str, **changed: Tensor) -> None:
        save_file({key: its for key, its in (tensors | changed).items() if its.numel()}, weights)
        with pytest.raises(CheckpointError, match=text):
            source_of(bases["bert"], folder).read(source_of(bases["bert"], folder).changed[0])

    expect("has no lora_A of the module", **{first: torch.empty(0)})
    expect("A is .3, 8. and B is .8, 2.", **{first: torch.ones(3, 8)})
    expect(r"the update of .* is \(8, 9\), but .* of the base is \(8, 8\)", **{first: torch.ones(2, 9)})
    expect("has NaN or infinite values", **{first: torch.full((2, 8), torch.nan)})
    expect("plain LoRA", **{first.replace("lora_A.weight", "lora_magnitude_vector"): torch.ones(2)})
    weights.unlink()
    expect_missing = "neither adapter_model.safetensors nor adapter_model.bin"
    with pytest.raises(CheckpointError, match=expect_missing):
        AdapterFolder(folder, label="a")
    (folder / "adapter_config.json").write_text("{")
    with pytest.raises(CheckpointError, match="is damaged"):
        AdapterFolder(folder, label="a")


def test_pickled_adapters_and_digests(make_adapter: Any) -> None:
    folder = make_adapter("bert", "adapter", 1, QUERY).folder
    digest = AdapterFolder(folder, label="a").digest()
    torch.save(load_file(folder / "adapter_model.safetensors"), folder / "adapter_model.bin")
    (folder / "adapter_model.safetensors").unlink()
    assert AdapterFolder(folder, label="a").digest() == digest
    edit_config(folder, lora_alpha=99)
    assert AdapterFolder(folder, label="a").digest() != digest


def test_tokens_that_do_not_fit(make_adapter: Any, bases: Any) -> None:
    made = make_adapter("bert", "adapter", 1, CONFIGS["tokens"][1])
    edit_config(made.folder, trainable_token_indices={"word_embeddings": [3, 11]})
    with pytest.raises(CheckpointError, match=r"numbers up to 11, but .* of the base is \(11, 8\)"):
        source_of(bases["bert"], made.folder)
    edit_config(made.folder, trainable_token_indices=[3])
    with pytest.raises(CheckpointError, match="names 1 trained tokens"):
        source_of(bases["bert"], made.folder)
