"""From a model folder and a data folder to a Hessian folder."""

import dataclasses
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import pytest
import torch
from merging import models, tasks
from merging.errors import CheckpointError, DataError, MergingError, OptionError, UnknownNameError
from merging.files.checkpoints import open_checkpoint, weights_hash
from merging.hessians import fisher_mc
from merging.hessians.artifact import StoredHessian
from merging.hessians.estimate import estimate
from merging.hessians.options import HessianOptions
from merging.sources.opening import open_model
from merging.sources.stored_statistics import as_input
from safetensors.torch import load_file, save_file
from torch import Tensor

ALTERNATING = [row % 2 for row in range(20)]
OPTIONS = {"max_tokens": 8, "batch_size": 4}


def run(out: Path, model: Path, data: Path, **changes: Any) -> StoredHessian:
    arguments: dict[str, Any] = {
        "estimator": "fisher_mc",
        "task_type": "sequence_classification",
        "options": OPTIONS,
        "seed": 0,
        **changes,
    }
    reference = {"data": str(data), "split": changes.pop("split", "train")}
    arguments.pop("split", None)
    estimate(model=model, data=reference, out=out, **arguments)
    return StoredHessian(out, label="test")


def tensors(hessian: StoredHessian) -> dict[str, Tensor]:
    return {name: hessian.checkpoint.read(name) for name in hessian.checkpoint.tensors}


def assert_alike(first: StoredHessian, second: StoredHessian) -> None:
    expected = tensors(second)
    largest = max(float(value.max()) for value in expected.values())
    for name, value in tensors(first).items():
        torch.testing.assert_close(value, expected[name], rtol=1e-4, atol=1e-8 * largest)


@pytest.mark.parametrize("estimator", ["fisher_mc", "fisher_empirical", "fisher_exact"])
def test_the_batch_size_changes_nothing(
    estimator: str, tmp_path: Path, write_bert: Callable[..., Path], write_texts: Callable[..., Path]
) -> None:
    model, data = write_bert(), write_texts(ALTERNATING)
    found = [
        run(
            tmp_path / f"out{size}", model, data, estimator=estimator, options={**OPTIONS, "batch_size": size}
        )
        for size in (1, 3, 20)
    ]
    assert_alike(found[1], found[0])
    assert_alike(found[2], found[0])


@pytest.mark.parametrize(
    ("estimator", "statistic", "key"),
    [("gram", "gram", "grams"), ("kfac_mc", "kfac", "factors"), ("kfac_empirical", "kfac", "factors")],
)
def test_factors_of_a_model_folder(
    estimator: str,
    statistic: str,
    key: str,
    tmp_path: Path,
    write_bert: Callable[..., Path],
    write_texts: Callable[..., Path],
) -> None:
    model, data = write_bert(), write_texts(ALTERNATING)
    one, many = (
        run(tmp_path / f"{size}", model, data, estimator=estimator, options={**OPTIONS, "batch_size": size})
        for size in (1, 8)
    )
    assert_alike(many, one)
    record = many.record
    assert record.statistic == statistic and record.transposed == () and record.uncovered == {}
    dense = "bert.encoder.layer.0.output.dense.weight"
    tokens = sum(min(8, 1 + 5 * row % 9) for row in range(20))
    assert record.num_positions[dense] == tokens and record.num_positions["classifier.weight"] == 20
    source: Any = as_input(many, key=key)
    weights = open_checkpoint(model, label="model").tensors
    for name in source.names:
        factors, (outputs, inputs) = source.of(name), weights[name].shape
        assert factors.inputs.shape == (inputs, inputs) and factors.inputs.equal(factors.inputs.T)
        assert key == "grams" or factors.outputs.shape == (outputs, outputs)
    assert set(source.names) == {n for n, i in weights.items() if len(i.shape) == 2 and "embeddings" not in n}


def test_factors_as_the_reference_scales_them(
    tmp_path: Path, write_bert: Callable[..., Path], write_texts: Callable[..., Path]
) -> None:
    """A classifier predicts once for each example, so only what G is divided by differs."""
    model, data = write_bert(), write_texts(ALTERNATING)
    ours, theirs = (
        run(
            tmp_path / scale,
            model,
            data,
            estimator="kfac_empirical",
            options={**OPTIONS, "kfac_scale": scale},
        )
        for scale in ("consistent", "reference")
    )
    name = "bert.encoder.layer.0.output.dense.weight"
    count = ours.record.num_positions[name]
    read = theirs.checkpoint.read
    assert read(f"{name}/inputs").equal(ours.checkpoint.read(f"{name}/inputs"))
    torch.testing.assert_close(read(f"{name}/outputs") * count, ours.checkpoint.read(f"{name}/outputs") * 20)
    assert (ours.record.default_scale, theirs.record.default_scale) == (20, 1)


def test_empirical_fisher_of_a_model_folder(
    tmp_path: Path, write_bert: Callable[..., Path], write_texts: Callable[..., Path]
) -> None:
    """Against a loop over the texts, tokenized here."""
    folder, data = write_bert(), write_texts(ALTERNATING)
    found = tensors(run(tmp_path / "out", folder, data, estimator="fisher_empirical"))
    task = tasks.load("sequence_classification")
    model, tokenizer = task.load_model(str(folder)), task.load_processor(model=str(folder))
    rows = datasets.load_from_disk(str(data / "train"))
    sums = {name: torch.zeros_like(p) for name, p in model.named_parameters()}
    for row in rows:
        model.zero_grad()
        tokens = tokenizer(row["text"], truncation=True, max_length=8, return_tensors="pt")
        (-model(**tokens).logits.log_softmax(-1)[0, row["label"]]).backward()
        for name, parameter in model.named_parameters():
            sums[name] += parameter.grad**2 / len(rows)
    largest = max(float(value.max()) for value in sums.values())
    for name, expected in sums.items():
        torch.testing.assert_close(found[name], expected, rtol=1e-4, atol=1e-8 * largest)


def test_the_record_says_what_was_done(
    tmp_path: Path, write_bert: Callable[..., Path], write_texts: Callable[..., Path]
) -> None:
    model, data = write_bert(), write_texts(ALTERNATING)
    options = {**OPTIONS, "max_examples": 6, "num_samples": 2}
    record = run(tmp_path / "out", model, data, options=options, seed=5, split="train[:80%]").record
    assert record.estimator == "fisher_mc" and record.task_type == "sequence_classification"
    assert (record.num_examples, record.num_train_examples) == (6, 16)
    assert record.model_hash == weights_hash(model) and record.model == str(model)
    assert record.data[0]["source"] == "texts" and record.data[0]["split"] == "train[:80%]"
    assert record.seed == 5 and record.reduction == "mean"
    assert record.options == dataclasses.asdict(HessianOptions(**options))
    assert record.statistic == "diagonal"
    assert record.label_names == ("negative", "positive")
    assert record.seconds > 0 and record.versions["torch"] == torch.__version__
    assert not record.by_vmap and not record.by_loop


def test_tensors_are_named_as_in_the_files(
    tmp_path: Path, write_vit: Callable[[], Path], write_images: Callable[[], Path]
) -> None:
    """transformers loads a ViT under other names than it stores it under."""
    model, data = write_vit(), write_images()
    options = {"batch_size": 4}
    hessian = run(tmp_path / "out", model, data, task_type="image_classification", options=options)
    stored = open_checkpoint(model, label="model").tensors
    assert {n: i.shape for n, i in hessian.checkpoint.tensors.items()} == {
        n: i.shape for n, i in stored.items()
    }
    assert {info.dtype for info in hessian.checkpoint.tensors.values()} == {"F32"}
    assert hessian.record.by_vmap == ("vit.embeddings.cls_token", "vit.embeddings.position_embeddings")


def test_factors_are_named_as_in_the_files(
    tmp_path: Path, write_vit: Callable[[], Path], write_images: Callable[[], Path]
) -> None:
    """The patch embedding is a convolution; queries are stored under another name than they are loaded."""
    model, data = write_vit(), write_images()
    options = {"batch_size": 7}
    hessian = run(
        tmp_path / "out", model, data, estimator="kfac_mc", task_type="image_classification", options=options
    )
    stored = open_checkpoint(model, label="model").tensors
    assert hessian.record.num_positions.keys() == {
        n for n, i in stored.items() if n.endswith("weight") and "layernorm" not in n
    }
    patches = "vit.embeddings.patch_embeddings.projection.weight"
    assert hessian.checkpoint.tensors[f"{patches}/inputs"].shape == (16, 16)
    assert hessian.record.num_positions[patches] == 20 * 4
    assert hessian.record.uncovered == {}


def test_fewer_examples_are_a_stratified_sample(
    tmp_path: Path, write_bert: Callable[..., Path], write_texts: Callable[..., Path], monkeypatch: Any
) -> None:
    """15 of 20 rows are of class 0: of 8 examples, 6 are. Every seed sees others, no row is seen twice."""
    seen: list[int] = []
    draw = fisher_mc.cotangents

    def spy(scores: Tensor, labels: Tensor, *, examples: list[int], **others: Any) -> Any:
        seen.extend(examples)
        return draw(scores, labels, examples=examples, **others)

    monkeypatch.setattr(fisher_mc, "cotangents", spy)
    model, data = write_bert(), write_texts([0] * 15 + [1] * 5)
    options = {**OPTIONS, "max_examples": 8}
    samples = []
    for seed in (0, 1):
        seen.clear()
        split = [{"data": str(data), "split": "train", "shuffle_seed": None}]
        estimate(
            estimator="fisher_mc",
            task_type="sequence_classification",
            model=model,
            data=split,
            options=options,
            seed=seed,
            out=tmp_path / f"out{seed}",
        )
        samples.append(set(seen))
        assert len(seen) == len(set(seen)) == 8
        assert sum(row < 15 for row in seen) == 6
    assert samples[0] != samples[1]


def test_the_seed_decides(
    tmp_path: Path, write_bert: Callable[..., Path], write_texts: Callable[..., Path]
) -> None:
    model, data = write_bert(), write_texts(ALTERNATING)
    first, again, other = (
        tensors(run(tmp_path / f"out{place}", model, data, seed=seed)) for place, seed in enumerate((1, 1, 2))
    )
    assert all(first[name].equal(again[name]) for name in first)
    assert not first["classifier.bias"].equal(other["classifier.bias"])


def test_labels_are_not_needed_where_they_are_not_used(
    tmp_path: Path, write_bert: Callable[..., Path], write_texts: Callable[..., Path]
) -> None:
    hessian = run(tmp_path / "out", write_bert(), write_texts([-1] * 5))
    assert hessian.record.num_examples == 5


def test_data_without_labels(
    tmp_path: Path, write_bert: Callable[..., Path], write_texts: Callable[..., Path]
) -> None:
    model, data = write_bert(), write_texts(ALTERNATING)
    rows = datasets.load_from_disk(str(data / "train")).remove_columns("label")
    rows.save_to_disk(tmp_path / "plain" / "train")
    source = json.loads((data / "source.json").read_text())
    source |= {"content_hash": "plain", "columns": ["text"], "label_names": []}
    (tmp_path / "plain" / "source.json").write_text(json.dumps(source))
    for estimator in ("fisher_mc", "fisher_exact", "gram", "kfac_mc", "block_mc"):
        options = {**OPTIONS, "max_examples": 6}
        found = run(tmp_path / estimator, model, tmp_path / "plain", estimator=estimator, options=options)
        assert found.record.num_examples == 6
    for estimator in ("fisher_empirical", "kfac_empirical", "block_empirical", "mask_nodes"):
        with pytest.raises(DataError, match="label"):
            run(tmp_path / estimator, model, tmp_path / "plain", estimator=estimator)


def test_a_model_in_pytorchs_own_format(
    tmp_path: Path, write_bert: Callable[..., Path], write_texts: Callable[..., Path]
) -> None:
    model, data = write_bert(), write_texts(ALTERNATING)
    expected = tensors(run(tmp_path / "safe", model, data))
    torch.save(load_file(model / "model.safetensors"), model / "pytorch_model.bin")
    (model / "model.safetensors").unlink()
    hessian = run(tmp_path / "pickled", model, data)
    found = tensors(hessian)
    assert all(found[name].equal(tensor) for name, tensor in expected.items())
    assert hessian.record.model_hash == open_model(model, label="model").digest()


def test_progress(tmp_path: Path, write_bert: Callable[..., Path], write_texts: Callable[..., Path]) -> None:
    run(tmp_path / "out", write_bert(), write_texts(ALTERNATING), work=tmp_path / "work")
    last = json.loads((tmp_path / "work" / "progress.jsonl").read_text().splitlines()[-1])
    assert (last["step"], last["total_steps"], last["seconds_left"]) == (20, 20, 0)
    assert last["examples_per_s"] > 0


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"estimator": "fisher_mcc"}, UnknownNameError, "Did you mean 'fisher_mc'"),
        ({"task_type": "sequence_clasification"}, UnknownNameError, "Did you mean 'sequence_classification'"),
        ({"options": {"max_token": 8}}, OptionError, "Did you mean 'max_tokens'"),
        (
            {"options": {**OPTIONS, "kfac_scale": "reference"}},
            OptionError,
            "kfac_scale is 'reference', but this estimator makes no K-FAC",
        ),
        ({"options": {}}, OptionError, r"max_tokens must be in 1\.\.16"),
        ({"seed": -1}, OptionError, "seed must be an int"),
        ({"save_interval_s": -1}, OptionError, "save_interval_s must be a number of seconds, 0 or more"),
        ({"save_interval_s": "5 min"}, OptionError, "save_interval_s must be a number of seconds"),
        ({"split": "train[:1%]"}, DataError, "is empty"),
        ({"split": "test"}, DataError, "unknown split 'test'"),
    ],
)
def test_wrong_arguments(
    changes: dict[str, Any],
    error: type[Exception],
    message: str,
    tmp_path: Path,
    write_bert: Callable[..., Path],
    write_texts: Callable[..., Path],
) -> None:
    with pytest.raises(error, match=message):
        run(tmp_path / "out", write_bert(), write_texts(ALTERNATING), **changes)
    assert not (tmp_path / "out").exists()


def test_a_label_outside_its_range(
    tmp_path: Path, write_bert: Callable[..., Path], write_texts: Callable[..., Path]
) -> None:
    with pytest.raises(DataError, match="label -1 of row"):
        run(tmp_path / "out", write_bert(), write_texts([0, 1, -1]), estimator="fisher_empirical")


def test_labels_that_mean_something_else(
    tmp_path: Path, write_bert: Callable[..., Path], write_texts: Callable[..., Path]
) -> None:
    model, data = write_bert(), write_texts(ALTERNATING, label_names=("positive", "negative"))
    with pytest.raises(DataError, match=r"classes are \['negative', 'positive'\].*'positive', 'negative'\]"):
        run(tmp_path / "out", model, data, estimator="fisher_empirical")


def test_too_many_classes_for_the_exact_expectation(
    tmp_path: Path, write_bert: Callable[..., Path], write_texts: Callable[..., Path]
) -> None:
    with pytest.raises(OptionError, match=r"there are 17 .*Use fisher_mc"):
        run(tmp_path / "out", write_bert(num_labels=17), write_texts(ALTERNATING), estimator="fisher_exact")


def test_weights_that_are_not_numbers(
    tmp_path: Path, write_bert: Callable[..., Path], write_texts: Callable[..., Path]
) -> None:
    model = write_bert(weights={"classifier.bias": math.nan})
    with pytest.raises(CheckpointError, match=r"classifier\.bias has NaN"):
        run(tmp_path / "out", model, write_texts(ALTERNATING))


def test_scores_that_overflow_leave_the_old_result(
    tmp_path: Path, write_bert: Callable[..., Path], write_texts: Callable[..., Path]
) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "old").touch()
    model = write_bert(weights={"classifier.weight": 3e38, "bert.pooler.dense.bias": 5.0})
    with pytest.raises(MergingError, match="the model's scores are not finite"):
        run(tmp_path / "out", model, write_texts(ALTERNATING))
    assert [entry.name for entry in (tmp_path / "out").iterdir()] == ["old"]
    assert not list(tmp_path.glob(".out*"))


def test_gradients_that_overflow(
    tmp_path: Path, write_bert: Callable[..., Path], write_texts: Callable[..., Path]
) -> None:
    model = write_bert(weights={"bert.pooler.dense.weight": 0.0, "bert.pooler.dense.bias": 0.0})
    weights = load_file(model / "model.safetensors")
    weights["classifier.weight"][:] = torch.tensor([[1e25], [-1e25]])  # of zeros: the scores are finite
    save_file(weights, model / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(MergingError, match="is not finite: squares of its gradients overflow"):
        run(tmp_path / "out", model, write_texts(ALTERNATING))
    assert not (tmp_path / "out").exists()


def test_a_truncated_model(
    tmp_path: Path, write_bert: Callable[..., Path], write_texts: Callable[..., Path]
) -> None:
    model = write_bert()
    file = model / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(CheckpointError, match="is truncated"):
        run(tmp_path / "out", model, write_texts(ALTERNATING))


def test_names_that_a_merge_could_not_pair(
    tmp_path: Path, write_bert: Callable[..., Path], write_texts: Callable[..., Path], monkeypatch: Any
) -> None:
    monkeypatch.setattr(
        models, "as_stored", lambda model, tensors: {f"old.{n}": t for n, t in tensors.items()}
    )
    with pytest.raises(CheckpointError, match=r"parameter 'old\..* is missing in its files"):
        run(tmp_path / "out", write_bert(), write_texts(ALTERNATING))


def test_no_room(
    tmp_path: Path, write_bert: Callable[..., Path], write_texts: Callable[..., Path], monkeypatch: Any
) -> None:
    usage = type("Usage", (), {"free": 10})
    monkeypatch.setattr("shutil.disk_usage", lambda folder: usage)
    with pytest.raises(MergingError, match="are free on its disk"):
        run(tmp_path / "out", write_bert(), write_texts(ALTERNATING))
