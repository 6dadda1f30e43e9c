"""Gated MLPs: against merging weights by hand, on real architectures, from folders to a folder."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from merging.adaptation import wemoe_files
from merging.adaptation.options import WemoeOptions
from merging.adaptation.run_wemoe import upscale_and_learn
from merging.adaptation.wemoe import Gate, find_mlps, pooled, upscale, width_of
from merging.errors import CheckpointError
from merging.evaluation.run import evaluate
from merging.merge.streaming import merge_checkpoints
from torch import Tensor, nn

SIZES: dict[str, Any] = {"num_attention_heads": 2, "intermediate_size": 12, "hidden_size": 8}


def architecture(name: str) -> Any:
    """A tiny network with two layers."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        if name == "bert":
            config = transformers.BertConfig(vocab_size=20, num_hidden_layers=2, **SIZES)
            return transformers.BertForSequenceClassification(config).eval()
        if name == "gpt2":
            config = transformers.GPT2Config(
                vocab_size=20, n_layer=2, n_head=2, n_embd=8, pad_token_id=0, bos_token_id=1, eos_token_id=1
            )
            return transformers.GPT2ForSequenceClassification(config).eval()
        if name == "vit":
            config = transformers.ViTConfig(image_size=8, patch_size=4, num_hidden_layers=2, **SIZES)
            return transformers.ViTForImageClassification(config).eval()
        config = transformers.DistilBertConfig(vocab_size=20, n_layers=2, dim=8, n_heads=2, hidden_dim=12)
        return transformers.DistilBertForSequenceClassification(config).eval()


def inputs_of(name: str) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(1)
    if name == "vit":
        return {"pixel_values": torch.randn(3, 3, 8, 8, generator=generator)}
    ids = torch.randint(2, 20, (3, 6), generator=generator)
    mask = torch.ones_like(ids)
    ids[1, 4:], mask[1, 4:] = 0, 0
    return {"input_ids": ids, "attention_mask": mask}


def vectors_of(network: Any, num_tasks: int) -> dict[str, Tensor]:
    """Random task vectors for the parameters of all MLPs."""
    generator = torch.Generator().manual_seed(2)
    return {
        f"{linear}.{key}": 0.3 * torch.randn(num_tasks, *its.shape, generator=generator)
        for mlp in find_mlps(network)
        for linear in mlp.linears
        for key, its in network.get_submodule(linear).named_parameters()
    }


@pytest.mark.parametrize("name", ["bert", "gpt2", "vit", "distilbert"])
def test_constant_gates_are_task_arithmetic_of_the_mlps(name: str) -> None:
    expected, network = architecture(name), architecture(name)
    assert len(find_mlps(network)) == 2
    for num_tasks in (2, 9):  # fewer and more tasks than tokens: both ways to compute it
        network, vectors = architecture(name), vectors_of(expected, num_tasks)
        scales = torch.linspace(-0.5, 0.5, num_tasks)
        gates = {}
        for mlp in find_mlps(network):
            gates[mlp.entry] = Gate(width_of(network, mlp), num_tasks, 0, initial=0.0, seed=[0])
            gates[mlp.entry].constant.data = scales + 0.25
        upscale(network, vectors, gates, WemoeOptions(), offset=0.25)
        merged = architecture(name)
        with torch.no_grad():
            for key, its in vectors.items():
                merged.get_parameter(key).add_(torch.tensordot(scales, its, 1))
            one, other = (its(**inputs_of(name)).logits for its in (network, merged))
            plain = expected(**inputs_of(name)).logits
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)
        assert not torch.allclose(one, plain, atol=1e-4)


@pytest.mark.parametrize("num_tasks", [2, 9])
def test_padding_and_neighbours_do_not_change_a_prediction(num_tasks: int) -> None:
    def scores(batch: Mapping[str, Tensor], **options: Any) -> Tensor:
        network = architecture("bert")
        gates = {
            mlp.entry: Gate(8, num_tasks, 2, initial=0.3, seed=[number])
            for number, mlp in enumerate(find_mlps(network))
        }
        for gate in gates.values():
            gate.fc2.weight.data.mul_(300)
        network.classifier.weight.data.mul_(100)
        upscale(network, vectors_of(network, num_tasks), gates, WemoeOptions(**options))
        with torch.no_grad():
            found: Tensor = network(**batch).logits
        return found

    batch = inputs_of("bert")
    alone = {key: its[1:2, :4] for key, its in batch.items()}
    torch.testing.assert_close(scores(batch)[1:2], scores(alone), rtol=1e-4, atol=1e-4)
    assert not torch.allclose(scores(batch, pooling="all")[1:2], scores(alone), atol=1e-3)
    assert not torch.allclose(scores(batch, batch_reduce=True)[1:2], scores(alone), atol=1e-3)


@pytest.mark.parametrize("num_tasks", [2, 9])
def test_gates_and_experts_move_with_their_network(num_tasks: int) -> None:
    """To another dtype here, to another device elsewhere."""
    network = architecture("vit")
    gates = {mlp.entry: Gate(8, num_tasks, 2, initial=0.3, seed=[0]) for mlp in find_mlps(network)}
    upscale(network, vectors_of(network, num_tasks), gates, WemoeOptions())
    pixels = inputs_of("vit")["pixel_values"]
    with torch.no_grad():
        single = network(pixel_values=pixels).logits
        double = network.double()(pixel_values=pixels.double()).logits
    assert double.dtype == torch.float64
    torch.testing.assert_close(double.float(), single, rtol=1e-4, atol=1e-5)


def test_tokens_may_come_first() -> None:
    def network(batch_first: bool) -> nn.Module:
        with torch.random.fork_rng():
            torch.manual_seed(0)
            made = nn.ModuleDict({"mlp": nn.Sequential(nn.Linear(4, 6), nn.GELU(), nn.Linear(6, 4))})
        gate = Gate(4, 2, 1, initial=0.3, seed=[0])
        gate.fc2.weight.data.mul_(100)
        upscale(made, vectors_of(made, 2), {"mlp": gate}, WemoeOptions(), batch_first=batch_first)
        return made["mlp"]

    x = torch.randn(3, 5, 4, generator=torch.Generator().manual_seed(0))
    expected = network(True)(x).transpose(0, 1)
    torch.testing.assert_close(network(False)(x.transpose(0, 1)), expected)
    assert not torch.allclose(network(True)(x.transpose(0, 1)), expected, atol=1e-3)


def test_gates_start_near_their_initial_value() -> None:
    for depth in (0, 1, 2):
        gate = Gate(16, 3, depth, initial=0.3, seed=[7])
        found = gate(torch.randn(2, 5, 16, generator=torch.Generator().manual_seed(0)))
        assert found.shape == (2, 5, 3)
        assert (found - 0.3).abs().max() < 0.2
        same, other = (Gate(16, 3, depth, initial=0.3, seed=[its]).state_dict() for its in (7, 8))
        assert all(torch.equal(same[key], its) for key, its in gate.state_dict().items())
        assert depth == 0 or not torch.equal(other["fc2.weight"], same["fc2.weight"])


def test_the_mean_is_over_real_tokens() -> None:
    tokens = torch.tensor([[[1.0], [3.0], [100.0]]])
    assert pooled(tokens, torch.tensor([[True, True, False]])).tolist() == [[2.0]]
    assert pooled(tokens, None).tolist() == [[pytest.approx(104 / 3)]]


def test_what_is_no_transformer_is_refused() -> None:
    with pytest.raises(CheckpointError, match="Sequential has no MLP that is known by its name"):
        find_mlps(nn.Sequential(nn.Linear(2, 2)))


OPTIONS = {"num_steps": 8, "batch_size": 6, "learning_rate": 0.05, "max_tokens": 16}


def probabilities(model: Path, call: dict[str, Any], reviews: Path, out: Path) -> list[Any]:
    evaluate(
        task_type=call["task_type"],
        model=model,
        data={"few": {"data": reviews, "split": "test"}},
        options={"bootstrap_samples": 2, "max_tokens": 16},
        out=out,
    )
    lines = (out / "predictions" / "few.jsonl").read_text().splitlines()
    return [json.loads(line)["probabilities"] for line in lines]


def test_from_folders_to_a_folder(
    call: dict[str, Any], folders: Mapping[str, Path], reviews: Path, tmp_path: Path
) -> None:
    arguments = {**call, "base": folders["base"]}
    upscale_and_learn(**arguments, options=OPTIONS, out=tmp_path / "out")
    record = json.loads((tmp_path / "out" / "wemoe.json").read_text())
    sums = [sum(its.values()) for its in record["curve"]]
    assert len(sums) == 8 and sums[-1] < sums[0]
    merged = tmp_path / "merged"
    merge_checkpoints(
        method="task_arithmetic",
        options={"scaling_factor": 0.3},
        base=folders["base"],
        models=call["models"],
        extras={},
        policy={"head": "per_task"},
        out=merged,
    )
    learned = probabilities(tmp_path / "out", call, reviews, tmp_path / "learned")
    plain = probabilities(merged, call, reviews, tmp_path / "plain")
    assert torch.tensor(learned).sub(torch.tensor(plain)).abs().max() > 1e-3
    # Untrained constant gates are task arithmetic, also after a way through files.
    untrained = {**OPTIONS, "depth": 0, "num_steps": 1, "learning_rate": 1e-12}
    upscale_and_learn(**arguments, options=untrained, out=tmp_path / "untrained")
    same = probabilities(tmp_path / "untrained", call, reviews, tmp_path / "same")
    torch.testing.assert_close(torch.tensor(same), torch.tensor(plain), rtol=1e-4, atol=1e-5)


def test_files_of_another_architecture_are_refused(tmp_path: Path) -> None:
    network = architecture("bert")
    settings = {"num_steps": 1, "depth": 1}
    gate = Gate(8, 2, 1, initial=0.3, seed=[0])
    wemoe_files.save(tmp_path, {"one": gate}, {}, {"tasks": ["a", "b"], "settings": settings})
    with pytest.raises(CheckpointError, match="has gates for 1 MLPs, BertForSequenceClassification has 2"):
        wemoe_files.restore(network, tmp_path)
