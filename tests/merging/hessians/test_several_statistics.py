"""Several statistics from one pass over the data: each is what it is by itself."""

import gc
import weakref
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from merging import tasks
from merging.errors import CheckpointError, OptionError, UnknownNameError
from merging.hessians import _passes
from merging.hessians._blocks import OuterProducts
from merging.hessians._factors import FactorSums
from merging.hessians._mask_nodes import MaskSquares
from merging.hessians._per_example import SquaredGradients
from merging.hessians.artifact import StoredHessian
from merging.hessians.estimate import estimate
from merging.merge.streaming import merge_checkpoints
from safetensors.torch import load_file

ALL = ["fisher_mc", "fisher_exact", "fisher_empirical", "gram", "kfac_mc", "kfac_empirical", "block_mc"]
OPTIONS = {"max_tokens": 8, "batch_size": 4}

Estimate = Callable[..., Path]


@pytest.fixture
def texts(tmp_path: Path, write_bert: Callable[..., Path], write_texts: Callable[..., Path]) -> Estimate:
    """``texts(name, estimator=...)`` estimates for a tiny BERT, and returns the folder."""
    model, data = write_bert(), write_texts([row % 2 for row in range(20)])

    def run(name: str, **arguments: Any) -> Path:
        estimate(
            task_type="sequence_classification",
            model=model,
            data={"data": str(data), "split": "train"},
            seed=0,
            out=tmp_path / name,
            **{"options": OPTIONS, **arguments},
        )
        return tmp_path / name

    return run


@pytest.mark.parametrize("options", [{}, {"num_samples": 2, "max_examples": 7}, {"compare_halves": False}])
def test_each_is_what_it_is_by_itself(texts: Estimate, options: dict[str, Any]) -> None:
    names = [*ALL, "mask_nodes"]
    together = texts("together", statistics=names, options={**OPTIONS, **options})
    assert {path.name for path in together.iterdir()} == set(names)
    for name in names:
        own = {key: its for key, its in options.items() if key != "num_samples" or name.endswith("_mc")}
        alone = texts(name, estimator=name, options={**OPTIONS, **own})
        found, expected = (load_file(folder / "hessian.safetensors") for folder in (together / name, alone))
        assert found.keys() == expected.keys()
        for key, tensor in expected.items():
            assert found[key].equal(tensor), (name, key)
        records = [StoredHessian(folder, label=name).record for folder in (together / name, alone)]
        assert records[0].num_examples == records[1].num_examples == options.get("max_examples", 20)
        assert records[0].report.half_change == records[1].report.half_change
        assert records[0].report.layers == records[1].report.layers
        assert records[0].num_positions == records[1].num_positions
        assert records[0].uncovered == records[1].uncovered


def test_images_too(tmp_path: Path, write_vit: Callable[[], Path], write_images: Callable[[], Path]) -> None:
    """Some parameters of a ViT go by vmap, and its patches are a convolution."""
    common: dict[str, Any] = {
        "task_type": "image_classification",
        "model": write_vit(),
        "data": {"data": str(write_images()), "split": "train"},
        "options": {"batch_size": 4},
        "seed": 0,
    }
    names = ["fisher_mc", "kfac_mc", "gram"]
    estimate(statistics=names, out=tmp_path / "together", **common)
    for name in names:
        estimate(estimator=name, out=tmp_path / name, **common)
        found, expected = (
            load_file(folder / "hessian.safetensors")
            for folder in (tmp_path / "together" / name, tmp_path / name)
        )
        assert all(found[key].equal(tensor) for key, tensor in expected.items())


def test_passes_are_shared(texts: Estimate, monkeypatch: pytest.MonkeyPatch) -> None:
    """20 examples, 5 batches: one forward pass for each, one backward pass for each kind of labels."""
    task = tasks.load("sequence_classification")
    scores, sizes, backward = task.scores, [], []
    grad = torch.autograd.grad

    def counted(model: Any, batch: Any) -> Any:
        sizes.append(len(batch["input_ids"]))
        return scores(model, batch)

    monkeypatch.setattr(task, "scores", counted)
    monkeypatch.setattr(
        _passes.torch.autograd, "grad", lambda *a, **k: [backward.append(len(a[0])), grad(*a, **k)][1]
    )
    options = {**OPTIONS, "batch_size": 5, "compare_halves": False}  # probes have other sizes
    for names, passes in (
        (["gram"], 0),
        (["fisher_mc", "kfac_mc", "gram", "block_mc"], 1),
        (["fisher_mc", "kfac_empirical"], 2),
    ):
        sizes.clear()
        backward.clear()
        texts("_".join(names), statistics=names, options=options)
        assert sizes.count(5) == 4
        assert backward.count(5) == 4 * passes


@pytest.mark.parametrize(
    ("method", "key", "options", "name"),
    [
        ("regmean", "grams", {}, "gram"),
        ("fisher", "hessians", {}, "fisher_mc"),
        ("mats", "factors", {"objective": "kfac", "num_iterations": 2}, "kfac_mc"),
    ],
)
def test_a_merge_takes_what_it_needs(
    texts: Estimate, tmp_path: Path, method: str, key: str, options: dict[str, Any], name: str
) -> None:
    folder = texts("together", statistics=["kfac_mc", "gram", "fisher_mc"])
    models = {"a": tmp_path / "bert", "b": tmp_path / "bert"}
    merged = []
    for place, given in (("whole", folder), ("part", folder / name)):
        extras = {key: dict.fromkeys(models, given)}
        merge_checkpoints(
            method=method, options=options, base=None, models=models, extras=extras, out=tmp_path / place
        )
        merged.append(load_file(tmp_path / place / "model.safetensors"))
    assert all(merged[0][key].equal(merged[1][key]) for key in merged[1])


def test_a_merge_says_what_it_misses(texts: Estimate, tmp_path: Path) -> None:
    folder = texts("together", statistics=["fisher_mc", "fisher_exact"])

    def merge(method: str, key: str) -> None:
        merge_checkpoints(
            method=method,
            options={},
            base=None,
            models={"a": tmp_path / "bert"},
            extras={key: {"a": folder}},
            out=tmp_path / "merged",
        )

    with pytest.raises(CheckpointError, match=r"holds fisher_exact, fisher_mc, but grams needs 'gram' or"):
        merge("regmean", "grams")
    with pytest.raises(CheckpointError, match=r"holds fisher_exact and fisher_mc, and hessians takes one"):
        merge("fisher", "hessians")


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({}, OptionError, "exactly one of estimator .* and statistics"),
        ({"estimator": "gram", "statistics": ["gram"]}, OptionError, "exactly one of estimator"),
        ({"statistics": []}, OptionError, "a list of different estimators"),
        ({"statistics": "gram"}, OptionError, "a list of different estimators"),
        ({"statistics": ["gram", "gram"]}, OptionError, "a list of different estimators"),
        (
            {"statistics": ["gram", "kfac"]},
            UnknownNameError,
            "unknown Hessian estimator 'kfac'",
        ),
        (
            {"statistics": ["gram", "fisher_exact"], "options": {**OPTIONS, "num_samples": 2}},
            OptionError,
            "fisher_exact, gram: num_samples is 2, but this estimator draws no labels",
        ),
    ],
)
def test_wrong_arguments(
    texts: Estimate, arguments: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        texts("out", **arguments)


SIZES = {"vocab_size": 13, "hidden_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2}
NETWORKS: dict[str, Callable[[], Any]] = {
    "bert": lambda: transformers.BertForSequenceClassification(
        transformers.BertConfig(**SIZES, intermediate_size=12, pad_token_id=0)
    ),
    "gpt2": lambda: transformers.GPT2LMHeadModel(  # its head is tied to its embedding
        transformers.GPT2Config(vocab_size=13, n_embd=8, n_layer=2, n_head=2, n_positions=8, n_inner=12)
    ),
    "t5": lambda: transformers.T5ForConditionalGeneration(  # with a table of relative positions
        transformers.T5Config(
            vocab_size=13, d_model=8, d_kv=4, d_ff=12, num_layers=2, num_heads=2, decoder_start_token_id=0
        )
    ),
    "llama": lambda: transformers.LlamaForCausalLM(transformers.LlamaConfig(**SIZES, intermediate_size=12)),
}


@pytest.mark.parametrize("kind", NETWORKS)
def test_members_do_not_disturb_each_other(kind: str) -> None:
    """Two batches, one of which is padded, each with two kinds of gradients."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = NETWORKS[kind]().double().eval()
        with torch.no_grad():
            for parameter in network.parameters():
                parameter.add_(torch.randn_like(parameter), alpha=0.3)
    batches = []
    for length in (5, 3):
        ids = torch.arange(4 * length).view(4, length) % 11 + 1
        mask = torch.ones_like(ids)
        mask[1, length - 2 :] = 0
        batches.append({"input_ids": ids, "attention_mask": mask})
        if kind == "t5":
            batches[-1]["decoder_input_ids"] = ids.flip(1)

    def scores(model: Any, batch: Any) -> Any:
        return model(**batch).logits

    def waves(frequency: float, values: Any) -> list[Any]:
        return [(torch.arange(values.numel()) * frequency).cos().view_as(values).to(values)]

    first, second = partial(waves, 1.0), partial(waves, 0.7)

    def members() -> list[tuple[Any, Any]]:
        found = [
            (SquaredGradients(network, scores), first),
            (FactorSums(network, scores, outputs=True), first),
            (OuterProducts(network, scores), first),
            (SquaredGradients(network, scores), second),
            (FactorSums(network, scores, outputs=False), second),
        ]
        if kind != "t5":  # which has two stacks of layers
            found.append((MaskSquares(network, scores, num_heads=2), second))
        return found

    alone, together = members(), members()
    groups = [
        _passes.Group(given, [member for member, its in together if its is given])
        for given in (first, second)
    ]
    for batch in batches:
        for member, given in alone:
            member.add(batch, given)
        _passes.run(network, scores, batch, groups, backward=True)
    for (one, _), (other, _) in zip(alone, together, strict=True):
        assert one.num_examples == other.num_examples == 8
        for key, tensor in tensors_of(one).items():
            torch.testing.assert_close(tensors_of(other)[key], tensor, rtol=1e-8, atol=1e-10)


def tensors_of(member: Any) -> dict[str, Any]:
    """Every sum of a member."""
    if isinstance(member, SquaredGradients):
        return dict(member.sums)
    if isinstance(member, MaskSquares):
        return {"heads": member.heads, "neurons": member.neurons}
    return {
        f"{name}/{side}": its for side in ("inputs", "outputs") for name, its in vars(member)[side].items()
    }


@pytest.mark.parametrize(
    "make",
    [
        SquaredGradients,
        OuterProducts,
        partial(FactorSums, outputs=True),
        partial(FactorSums, outputs=False),
        partial(MaskSquares, num_heads=2),
    ],
)
def test_nothing_of_a_pass_is_kept(make: Callable[..., Any]) -> None:
    """Graphs go when their pass is over, not when the garbage collector finds the time: memory would grow."""
    config = transformers.BertConfig(
        vocab_size=11, hidden_size=4, num_hidden_layers=3, num_attention_heads=2, intermediate_size=6
    )
    with torch.random.fork_rng():
        model = transformers.BertForSequenceClassification(config).eval()
    member = make(model, lambda model, batch: model(**batch).logits)
    seen: list[Any] = []

    def keep(module: torch.nn.Module, args: Any, output: Any) -> None:
        if isinstance(output, torch.Tensor):
            seen.append(weakref.ref(output))

    batch = {"input_ids": torch.arange(1, 9).view(4, 2)}
    member.prepare(batch)
    for module in model.modules():
        module.register_forward_hook(keep)
    gc.collect()
    gc.disable()
    try:
        group = _passes.Group(lambda scores: [torch.ones_like(scores)], [member])
        _passes.run(model, lambda model, batch: model(**batch).logits, batch, [group], backward=True)
        assert seen and not any(reference() is not None for reference in seen)
    finally:
        gc.enable()
