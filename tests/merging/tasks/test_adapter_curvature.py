"""Curvature of what an adapter trains, its parameters alone, and the merge of (IA)3 vectors by it."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from merging import tasks
from merging.adapters import merge_adapters
from merging.errors import CheckpointError, OptionError
from merging.evaluation.run import evaluate
from merging.hessians import fisher_empirical
from merging.hessians._blocks import OuterProducts
from merging.hessians._per_example import SquaredGradients
from merging.hessians.artifact import StoredHessian
from merging.hessians.estimate import estimate
from merging.models import quiet
from safetensors.torch import load_file
from torch import Tensor

peft = pytest.importorskip("peft")
pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")  # peft itself

WriteModel = Callable[..., Path]
WriteData = Callable[..., Path]
CONFIGS: dict[str, tuple[str, str, Callable[[], Any]]] = {
    "ia3": (
        "seq2seq",
        "t5",
        lambda: peft.IA3Config(target_modules=["k", "v", "wo"], feedforward_modules=["wo"]),
    ),
    "lora": (
        "causal_lm",
        "gpt2",
        lambda: peft.LoraConfig(r=2, target_modules=["c_attn", "c_fc"], fan_in_fan_out=True),
    ),
}
ROWS = {
    "seq2seq": [{"text": f"w{row % 9} w{row % 5}", "target": f"w{row % 7} w{row % 3}"} for row in range(8)],
    "causal_lm": [{"prompt": f"w{row % 9}", "completion": f"w{row % 7} w{row % 3}"} for row in range(8)],
}


@pytest.fixture
def write_adapter(write_language_model: WriteModel, tmp_path: Path) -> Callable[..., Path]:
    """``write_adapter("ia3", "a", seed=0)`` makes an adapter of a base that all of its kind share."""

    def write(kind: str, name: str, *, seed: int) -> Path:
        task_type, architecture, config = CONFIGS[kind]
        base = tmp_path / architecture
        if not base.is_dir():
            write_language_model(architecture)
        with torch.random.fork_rng(), quiet():
            torch.manual_seed(seed)
            model = peft.get_peft_model(tasks.load(task_type).load_model(str(base)), config())
            with torch.no_grad():
                for parameter in model.parameters():
                    if parameter.requires_grad:
                        parameter.add_(torch.randn_like(parameter), alpha=0.3)
            model.save_pretrained(tmp_path / name)
        return tmp_path / name

    return write


def log_likelihood(task: Any, processor: Any, model: Any, row: Any) -> Tensor:
    batch = task.collate([row], processor)
    labels = batch.pop("labels")
    scores = task.scores(model, batch)
    chosen = scores.log_softmax(-1).gather(-1, labels.clamp(min=0).unsqueeze(-1)).squeeze(-1)
    return (chosen * (labels != -100)).sum()


@pytest.mark.parametrize("kind", CONFIGS)
def test_curvature_is_of_the_adapter_s_parameters_one_example_at_a_time(
    kind: str, write_adapter: Callable[..., Path]
) -> None:
    folder = write_adapter(kind, "adapter", seed=1)
    task = tasks.load(CONFIGS[kind][0])
    processor = task.load_processor(model=str(folder))  # the base's
    model = task.load_model(str(folder)).double()
    trained = {name: its for name, its in model.named_parameters() if its.requires_grad}
    assert len(trained) == len(load_file(folder / "adapter_model.safetensors"))
    assert all("ia3" in name or "lora" in name for name in trained)
    columns = {key: [row[key] for row in ROWS[task_of(kind)][:3]] for key in ROWS[task_of(kind)][0]}
    encoded = task.encode(columns, processor, max_tokens=8)
    rows = [dict(zip(encoded, values, strict=True)) for values in zip(*encoded.values(), strict=True)]
    gradients = [
        torch.autograd.grad(log_likelihood(task, processor, model, row), list(trained.values()))
        for row in rows
    ]
    squares = {name: sum(its[place] ** 2 for its in gradients) for place, name in enumerate(trained)}
    blocks = {
        name: sum(torch.outer(its[place].flatten(), its[place].flatten()) for its in gradients)
        for place, (name, parameter) in enumerate(trained.items())
        if parameter.numel() == max(parameter.shape)
    }
    for sums, expected in ((SquaredGradients, squares), (OuterProducts, blocks)):
        if not expected:
            continue
        found = sums(model, task.scores)
        for part in (rows[:2], rows[2:]):
            batch = task.collate(part, processor)
            labels = batch.pop("labels")
            found.add(
                batch,
                lambda scores, labels=labels: fisher_empirical.cotangents(
                    scores, labels, examples=[0] * len(labels), num_samples=1, seed=0
                ),
            )
        torch.testing.assert_close(found.sums, expected, rtol=1e-4, atol=1e-7)


def test_trainings_do_not_start_from_adapters(write_adapter: Callable[..., Path]) -> None:
    folder = write_adapter("ia3", "adapter", seed=1)
    with pytest.raises(CheckpointError, match="is an adapter, and trainings start from whole models"):
        tasks.load("seq2seq").build_model(
            model=str(folder), architecture=None, label_names=(), dropout=None, seed=0
        )


def test_an_adapter_needs_its_base(write_adapter: Callable[..., Path]) -> None:
    folder = write_adapter("ia3", "adapter", seed=1)
    config = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps({**config, "base_model_name_or_path": None}))
    with pytest.raises(CheckpointError, match=r"adapter_config.json names no base model"):
        tasks.load("seq2seq").load_model(str(folder))
    gone = json.dumps({**config, "base_model_name_or_path": "/gone/base"})
    (folder / "adapter_config.json").write_text(gone)
    with pytest.raises(CheckpointError, match="no model folder at /gone/base"):
        tasks.load("seq2seq").load_model(str(folder))


def task_of(kind: str) -> str:
    return CONFIGS[kind][0]


def test_vectors_merge_by_their_blocks(
    write_adapter: Callable[..., Path], write_data: WriteData, tmp_path: Path
) -> None:
    adapters = {name: write_adapter("ia3", name, seed=seed) for seed, name in enumerate("ab")}
    data = {"data": write_data("pairs", {"train": ROWS["seq2seq"]}), "split": "train"}
    statistics = {}
    for name, folder in adapters.items():
        statistics[name] = tmp_path / f"blocks_{name}"
        estimate(
            estimator="block_empirical",
            task_type="seq2seq",
            model=folder,
            data=data,
            options={"max_tokens": 8},
            seed=0,
            out=statistics[name],
        )
    options = {"objective": "block", "num_iterations": 200, "tolerance": 1e-7}
    call: dict[str, Any] = {
        "method": "mats",
        "options": options,
        "adapters": adapters,
        "base": tmp_path / "t5",
        "result": "vectors",
    }
    merge_adapters(**call, statistics={"blocks": statistics}, out=tmp_path / "merged")
    merged = load_file(tmp_path / "merged" / "adapter_model.safetensors")
    vectors = {name: load_file(folder / "adapter_model.safetensors") for name, folder in adapters.items()}
    opened = {name: StoredHessian(folder, label=name).checkpoint for name, folder in statistics.items()}
    assert merged.keys() == vectors["a"].keys() == set(opened["a"].tensors)
    for key, vector in merged.items():
        blocks = {name: its.read(key).double() for name, its in opened.items()}
        residual = sum(
            block @ (vector - vectors[name][key]).double().flatten() for name, block in blocks.items()
        )
        assert isinstance(residual, Tensor)
        right = sum(block @ vectors[name][key].double().flatten() for name, block in blocks.items())
        assert isinstance(right, Tensor)
        assert residual.norm() <= 1e-4 * right.norm(), key

    evaluate(
        task_type="seq2seq",
        model=tmp_path / "merged",
        data={"pairs": data},
        options={"max_tokens": 8, "max_new_tokens": 3, "bootstrap_samples": 10},
        out=tmp_path / "evaluation",
    )
    assert json.loads((tmp_path / "evaluation" / "metrics.json").read_text())["pairs"]["num_examples"] == 8

    record = json.loads((tmp_path / "merged" / "merge.json").read_text())["sources"]["blocks['a']"]
    assert (record["estimator"], record["scale"]) == ("block_empirical", 8)
    alike = {name: {"hessian": folder, "scale": 1.0} for name, folder in statistics.items()}
    merge_adapters(**call, statistics={"blocks": alike}, out=tmp_path / "alike")
    for key, vector in load_file(tmp_path / "alike" / "adapter_model.safetensors").items():
        torch.testing.assert_close(vector, merged[key], rtol=1e-3, atol=1e-3)  # only ratios matter

    swapped = {"a": statistics["b"], "b": statistics["a"]}
    with pytest.raises(
        CheckpointError, match=r"blocks\['a'\] was estimated at other weights than models\['a'\]"
    ):
        merge_adapters(**call, statistics={"blocks": swapped}, out=tmp_path / "wrong")
    with pytest.raises(OptionError, match="vectors have no 'grams'; known: blocks, hessians"):
        merge_adapters(**call, statistics={"grams": statistics}, out=tmp_path / "wrong")
    with pytest.raises(OptionError, match="statistics go with result='vectors', not with 'dense'"):
        merge_adapters(
            **{**call, "result": "dense"}, statistics={"blocks": statistics}, out=tmp_path / "wrong"
        )


def test_vectors_merge_by_their_fishers(
    write_adapter: Callable[..., Path], write_data: WriteData, tmp_path: Path
) -> None:
    adapters = {name: write_adapter("ia3", name, seed=seed) for seed, name in enumerate("ab")}
    data = {"data": write_data("pairs", {"train": ROWS["seq2seq"]}), "split": "train"}
    statistics = {}
    for name, folder in adapters.items():
        statistics[name] = tmp_path / f"fisher_{name}"
        estimate(
            estimator="fisher_mc",
            task_type="seq2seq",
            model=folder,
            data=data,
            options={"max_tokens": 8},
            seed=0,
            out=statistics[name],
        )
    merge_adapters(
        method="fisher",
        options={},
        adapters=adapters,
        result="vectors",
        statistics={"hessians": statistics},
        out=tmp_path / "merged",
    )
    merged = load_file(tmp_path / "merged" / "adapter_model.safetensors")
    first, second = (load_file(folder / "adapter_model.safetensors") for folder in adapters.values())
    assert any((its - (first[key] + second[key]) / 2).abs().max() > 1e-3 for key, its in merged.items())
    for key, its in merged.items():  # between the two
        low, high = torch.minimum(first[key], second[key]), torch.maximum(first[key], second[key])
        assert ((its >= low - 1e-5) & (its <= high + 1e-5)).all()
