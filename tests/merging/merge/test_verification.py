"""Checks of whole models: tiny ones of several architectures, sound and broken."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import transformers
from merging import models
from merging.commands import cli
from merging.merge.streaming import merge_checkpoints
from merging.merge.verification import verify
from safetensors.torch import load_file, save_file

SIZES = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
TEXT = {"vocab_size": 50, **SIZES}
IMAGE = {"image_size": 16, "patch_size": 4, **SIZES}
ARCHITECTURES: dict[str, Callable[[], transformers.PreTrainedModel]] = {
    "encoder": lambda: transformers.BertForSequenceClassification(transformers.BertConfig(**TEXT)),
    "decoder": lambda: transformers.GPT2LMHeadModel(
        transformers.GPT2Config(vocab_size=50, n_embd=16, n_layer=2, n_head=2, bos_token_id=0, eos_token_id=0)
    ),
    "encoder-decoder": lambda: transformers.T5ForConditionalGeneration(
        transformers.T5Config(vocab_size=50, d_model=16, d_kv=8, d_ff=32, num_layers=2, num_heads=2)
    ),
    "vision": lambda: transformers.ViTForImageClassification(transformers.ViTConfig(num_labels=3, **IMAGE)),
    "text and vision": lambda: transformers.CLIPModel(
        transformers.CLIPConfig(
            text_config={**TEXT, "bos_token_id": 0, "eos_token_id": 1}, vision_config=IMAGE, projection_dim=8
        )
    ),
}


def save(model: transformers.PreTrainedModel, folder: Path) -> Path:
    with models.quiet():
        model.save_pretrained(folder)
    return folder


@pytest.fixture
def vision(tmp_path: Path) -> Path:
    return save(ARCHITECTURES["vision"](), tmp_path / "vision")


def change(folder: Path, name: str, change: Callable[[torch.Tensor], torch.Tensor]) -> None:
    tensors = load_file(folder / "model.safetensors")
    tensors[name] = change(tensors[name])
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


@pytest.mark.parametrize("kind", ARCHITECTURES)
def test_architectures_run(tmp_path: Path, kind: str) -> None:
    model = ARCHITECTURES[kind]()
    found = verify(save(model, tmp_path / "model"))
    assert found.problems == []
    assert f"{type(model).__name__} gives (1, " in found.forward


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_images_come_in_the_dtype_of_the_model(tmp_path: Path, dtype: torch.dtype) -> None:
    """Convolutions take no other."""
    config = transformers.ResNetConfig(embedding_size=8, hidden_sizes=[8], depths=[1], layer_type="basic")
    model = transformers.ResNetForImageClassification(config).to(dtype)
    found = verify(save(model, tmp_path / "model"))
    assert found.problems == [] and "gives (1, 2)" in found.forward


def test_merged_model_against_its_base(tmp_path: Path, vision: Path) -> None:
    """The base is found in merge.json; half of the way is half of the difference."""
    other = save(ARCHITECTURES["vision"](), tmp_path / "other")
    out = tmp_path / "out"
    merge_checkpoints(
        method="task_arithmetic",
        options={"scaling_factor": 0.5},
        base=vision,
        models={"a": other},
        extras={},
        policy={"head": "keep"},
        out=out,
    )
    found = verify(out, out=tmp_path / "verification.json")
    assert found.base == str(vision) and found.problems == []
    assert found.layers["classifier"]["moved_share"] == 0
    whole = verify(other, base=vision, load=False)
    layer = "vit.encoder.layer.0"
    assert found.layers[layer]["moved_ratio"] == pytest.approx(
        whole.layers[layer]["moved_ratio"] / 2, rel=1e-4
    )
    assert 0 < found.moved_share < whole.moved_share <= 1  # type: ignore[operator]
    assert json.loads((tmp_path / "verification.json").read_text())["problems"] == []


def test_a_base_of_an_older_format(tmp_path: Path, vision: Path) -> None:
    """Merges read it, too."""
    other = tmp_path / "base"
    other.mkdir()
    (other / "config.json").write_text((vision / "config.json").read_text())
    torch.save(load_file(vision / "model.safetensors"), other / "pytorch_model.bin")
    assert verify(vision, base=other, load=False).moved_share == 0


def test_not_finite(vision: Path) -> None:
    change(vision, "vit.layernorm.weight", lambda its: its.index_fill(0, torch.tensor([3]), float("nan")))
    assert verify(vision, load=False).problems == ["vit.layernorm.weight has NaN or infinite values"]


def test_exploded_layer(tmp_path: Path, vision: Path) -> None:
    other = tmp_path / "other"
    save(models.load("AutoModelForImageClassification", vision), other)
    change(other, "vit.layernorm.weight", lambda its: 100 * its)
    problems = verify(other, base=vision, load=False).problems
    assert problems == ["vit.layernorm has 100 times the norm that it has in the base"]


def test_parameters_that_are_missing(vision: Path) -> None:
    tensors = load_file(vision / "model.safetensors")
    del tensors["vit.layernorm.weight"]
    save_file(tensors, vision / "model.safetensors", metadata={"format": "pt"})
    assert (
        "1 parameters of ViTForImageClassification are missing: vit.layernorm.weight"
        in verify(vision).problems
    )


def test_embedding_too_small_for_the_tokenizer(tiny_language_model: Path, tmp_path: Path) -> None:
    tokenizer = models.load_processor("AutoTokenizer", tiny_language_model)
    config = transformers.BertConfig(**{**TEXT, "vocab_size": len(tokenizer) - 1})
    folder = save(transformers.BertModel(config), tmp_path / "model")
    tokenizer.save_pretrained(folder)
    (problem,) = verify(folder).problems
    assert (
        problem == f"the tokenizer has {len(tokenizer)} tokens, the embedding only {len(tokenizer) - 1} rows"
    )


def test_command(vision: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["verify", "--model", str(vision)]) == 0
    assert "forward pass: ViTForImageClassification gives (1, 3)" in capsys.readouterr().out
    change(vision, "vit.layernorm.weight", lambda its: its / 0)
    assert cli.main(["verify", "--model", str(vision)]) == 2
    captured = capsys.readouterr()
    assert "PROBLEM" in captured.out and "is no sound model" in captured.err
