"""Tiny random models of many architectures, merged from the command line and loaded with transformers.

What a file holds differs from what a model has: names are converted, tied weights are stored once or twice,
buffers are no parameters. Every merge here must give a folder that loads like its base does.
"""

import copy
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from merging import models
from merging.commands import cli
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.testing import assert_close

TASKS = ("a", "b", "c")
SIZES = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
TEXT = {"vocab_size": 50, **SIZES}
IMAGE = {"image_size": 16, "patch_size": 4, **SIZES}
GPT2 = {"vocab_size": 50, "n_embd": 16, "n_layer": 2, "n_head": 2, "bos_token_id": 0, "eos_token_id": 0}
ARCHITECTURES: dict[str, Callable[[], transformers.PreTrainedModel]] = {
    "encoder with two names of a bias": lambda: transformers.BertForMaskedLM(
        transformers.BertConfig(max_position_embeddings=32, **TEXT)
    ),
    "Conv1D": lambda: transformers.GPT2LMHeadModel(transformers.GPT2Config(n_positions=32, **GPT2)),
    "tied head": lambda: transformers.LlamaForCausalLM(
        transformers.LlamaConfig(num_key_value_heads=1, tie_word_embeddings=True, **TEXT)
    ),
    "experts": lambda: transformers.MixtralForCausalLM(
        transformers.MixtralConfig(num_key_value_heads=1, num_local_experts=3, **TEXT)
    ),
    "encoder-decoder": lambda: transformers.T5ForConditionalGeneration(
        transformers.T5Config(vocab_size=50, d_model=16, d_kv=8, d_ff=32, num_layers=2, num_heads=2)
    ),
    "batch norm": lambda: transformers.ResNetForImageClassification(
        transformers.ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic")
    ),
    "text and vision": lambda: transformers.CLIPModel(
        transformers.CLIPConfig(
            text_config={**TEXT, "bos_token_id": 0, "eos_token_id": 1}, vision_config=IMAGE, projection_dim=8
        )
    ),
    "speech": lambda: transformers.Wav2Vec2ForCTC(
        transformers.Wav2Vec2Config(
            conv_dim=[8, 8],
            conv_stride=[5, 2],
            conv_kernel=[10, 3],
            num_conv_pos_embeddings=8,
            num_conv_pos_embedding_groups=2,
            **{**TEXT, "vocab_size": 20},
        )
    ),
    "state space": lambda: transformers.MambaForCausalLM(
        transformers.MambaConfig(vocab_size=50, hidden_size=16, num_hidden_layers=2, state_size=4)
    ),
    "two models in one": lambda: transformers.VisionEncoderDecoderModel(
        transformers.VisionEncoderDecoderConfig.from_encoder_decoder_configs(
            transformers.ViTConfig(**IMAGE), transformers.GPT2Config(n_positions=32, **GPT2)
        )
    ),
}
METHODS = ("task_arithmetic", "ties", "dare_linear", "iso_c", "karcher")
"""By element, with a number of the whole model, at random, by matrix, by geometry."""


@pytest.fixture(scope="module", autouse=True)
def silent() -> Iterator[None]:
    with models.quiet():
        yield


def disturb(model: transformers.PreTrainedModel, seed: int) -> None:
    """What a fine-tuning might do, running statistics included."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=0.02)
        for name, buffer in model.named_buffers():
            if name.endswith(("running_mean", "running_var")):
                buffer.copy_(torch.rand(buffer.shape, generator=generator) + 0.5)


def write(kind: str, folder: Path, dtype: torch.dtype) -> dict[str, Path]:
    """A base and three models: one in many files, one pickled with every name of tied weights, one plain."""
    torch.manual_seed(0)
    base = ARCHITECTURES[kind]().to(dtype)
    disturb(base, 9)
    base.save_pretrained(folder / "base")
    for seed, task in enumerate(TASKS):
        model = copy.deepcopy(base)
        model.tie_weights()
        disturb(model, seed)
        model.save_pretrained(folder / task, max_shard_size="8KB" if task == "a" else "5GB")
        if task == "b":
            stored = folder / task / "model.safetensors"
            names = load_file(stored)
            state = model.state_dict()
            torch.save(state if names.keys() <= state.keys() else names, folder / task / "pytorch_model.bin")
            stored.unlink()
    return {name: folder / name for name in ("base", *TASKS)}


def load(folder: Path) -> transformers.PreTrainedModel:
    """The architecture that the config names; it must find exactly what it needs."""
    architecture = transformers.AutoConfig.from_pretrained(folder).architectures[0]
    model, info = getattr(transformers, architecture).from_pretrained(folder, output_loading_info=True)
    assert not any(info.values()), info
    return model  # type: ignore[no-any-return]


def merge(method: str, folders: dict[str, Path], out: Path, *flags: Any) -> dict[str, Tensor]:
    """``merging merge`` with all models, then ``merging verify``."""
    given = [f"{task}={folders[task]}" for task in TASKS]
    call = ["--method", method, "--base", folders["base"], "--models", *given, "--out", out, *flags]
    assert cli.main(["merge", *map(str, call)]) == 0
    assert cli.main(["verify", "--model", str(out)]) == 0
    return load_file(out / "model.safetensors")


@pytest.mark.parametrize("kind", ARCHITECTURES)
def test_architectures(kind: str, tmp_path: Path) -> None:
    number = list(ARCHITECTURES).index(kind)
    dtype = (torch.float32, torch.bfloat16, torch.float16)[number % 3]
    folders = write(kind, tmp_path, dtype)
    stored = load_file(folders["base"] / "model.safetensors")
    base = load(folders["base"])
    excluded = sorted(name for name, its in stored.items() if its.dim() > 1)[-1]
    for method in METHODS:
        merged = merge(method, folders, tmp_path / method, "--policy", f'{{"exclude": ["{excluded}"]}}')
        assert merged.keys() == stored.keys()
        for name, tensor in merged.items():
            assert (tensor.dtype, tensor.shape) == (stored[name].dtype, stored[name].shape)
            if name == excluded or not tensor.is_floating_point():
                assert torch.equal(tensor, stored[name])
            elif method == "task_arithmetic" and tensor.any():
                assert not torch.equal(tensor, stored[name])
        model = load(tmp_path / method)
        assert model.dtype == dtype
        for one, other in tied_names(base):
            assert model.state_dict()[one].data_ptr() == model.state_dict()[other].data_ptr()


def tied_names(model: transformers.PreTrainedModel) -> list[tuple[str, str]]:
    """Pairs of names of one parameter."""
    first: dict[int, str] = {}
    parameters = model.named_parameters(remove_duplicate=False)
    return [(first[id(its)], name) for name, its in parameters if first.setdefault(id(its), name) != name]


@pytest.mark.parametrize("kind", ["encoder with two names of a bias", "batch norm", "experts"])
def test_numbers_of_the_loaded_models(kind: str, tmp_path: Path) -> None:
    """What the user sees: parameters are summed, and running statistics averaged."""
    folders = write(kind, tmp_path, torch.float32)
    merge("task_arithmetic", folders, tmp_path / "out", "--scaling-factor", 0.5)
    base, *tasks, merged = (load(folder).state_dict() for folder in (*folders.values(), tmp_path / "out"))
    for name, tensor in merged.items():
        values = [its[name] for its in tasks]
        if "running_" in name:
            expected = torch.stack(values).mean(0)
        elif tensor.is_floating_point():
            expected = base[name] + 0.5 * sum(its - base[name] for its in values)
        else:
            expected = base[name]
        assert_close(tensor, expected)


@pytest.mark.parametrize("kind", ["encoder with two names of a bias", "two models in one"])
def test_a_second_name_in_every_model(kind: str, tmp_path: Path) -> None:
    """Older files hold tied weights twice; drawn at random, they still are the same."""
    folders = write(kind, tmp_path, torch.float32)
    for folder in folders.values():
        state = load(folder).state_dict()
        for file in (*folder.glob("model*.safetensors*"), *folder.glob("*.bin")):
            file.unlink()  # never written to: the state is mapped from it
        torch.save(state, folder / "pytorch_model.bin")
    pairs = tied_names(load(folders["base"]))
    merged = merge("dare_linear", folders, tmp_path / "out")
    assert pairs
    for one, other in pairs:
        assert torch.equal(merged[one], merged[other])
    load(tmp_path / "out")


def test_a_base_without_its_head_has_other_names(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What all models lack is kept as in the base, if so wished; that must not be everything."""
    config = transformers.BertConfig(max_position_embeddings=32, **TEXT)
    model = transformers.BertForSequenceClassification(config)
    model.save_pretrained(tmp_path / "a")
    model.bert.save_pretrained(tmp_path / "base")
    call = ["--method", "average", "--base", tmp_path / "base", "--models", f"a={tmp_path / 'a'}"]
    call += ["--policy", '{"on_missing": "base"}', "--out", tmp_path / "out"]
    assert cli.main(["merge", *map(str, call)]) == 2
    text = (
        "models['a'] holds no tensor of base. Its names are like 'bert.embeddings.LayerNorm.bias', those of"
    )
    assert text in capsys.readouterr().err


@pytest.mark.parametrize("kind", ["safetensors", "pickled"])
def test_names_of_the_first_files(kind: str, tmp_path: Path) -> None:
    """A base as it is on the Hub, gamma and beta in place of weight and bias, and models saved today."""
    config = transformers.BertConfig(max_position_embeddings=32, **TEXT)
    model = transformers.BertForSequenceClassification(config)
    for name in ("base", *TASKS):
        disturb(model, len(name))
        model.save_pretrained(tmp_path / name)
    stored = tmp_path / "base" / "model.safetensors"
    base = load_file(stored)
    renamed = {
        name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"): its
        for name, its in base.items()
    }
    stored.unlink()
    if kind == "pickled":
        torch.save(renamed, tmp_path / "base" / "pytorch_model.bin")
    else:
        save_file(renamed, stored, metadata={"format": "pt"})
    merged = merge("average", {name: tmp_path / name for name in ("base", *TASKS)}, tmp_path / "out")
    assert merged.keys() == base.keys()
    assert not torch.equal(
        merged["bert.embeddings.LayerNorm.weight"], base["bert.embeddings.LayerNorm.weight"]
    )
    load(tmp_path / "out")
    model = load(tmp_path / "base")  # what a Hessian of the base is stored under
    parameters = {name: its.detach() for name, its in model.named_parameters()}
    assert models.as_stored(model, parameters).keys() == base.keys()
