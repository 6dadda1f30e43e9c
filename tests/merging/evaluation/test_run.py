"""Evaluations of tiny models: files, order, and what is refused."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from merging import models, tasks
from merging.data import splits
from merging.errors import DataError, OptionError
from merging.evaluation.run import Evaluator, evaluate, predict
from merging.merge.streaming import merge_checkpoints
from safetensors.torch import load_file, save_file

TASK = "sequence_classification"
OPTIONS = {"batch_size": 5, "max_tokens": 16, "bootstrap_samples": 20}


@pytest.fixture(scope="module")
def classifier(tiny_language_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A text classifier with random weights for the labels of the tiny reviews."""
    folder = tmp_path_factory.mktemp("models") / "classifier"
    task = tasks.load(TASK)
    model = task.build_model(
        model=str(tiny_language_model), architecture=None, label_names=["0", "1"], dropout=None, seed=0
    )
    tokenizer = task.load_processor(model=str(tiny_language_model))
    tokens = tokenizer(["good film 1", "bad film 2"], return_tensors="pt")
    with torch.no_grad():  # so that both classes are predicted
        model.classifier.bias.sub_(model.eval()(**tokens).logits.mean(dim=0))
    with models.quiet():
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
    return folder


def read(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text().splitlines()]


def run(model: Path, data: dict[str, Any], out: Path, **options: Any) -> dict[str, Any]:
    evaluate(task_type=TASK, model=model, data=data, options={**OPTIONS, **options}, out=out)
    metrics: dict[str, Any] = json.loads((out / "metrics.json").read_text())
    return metrics


def test_each_task_has_metrics_and_every_prediction_in_order(
    classifier: Path, reviews: Path, tmp_path: Path
) -> None:
    data = {
        "all": {"data": reviews, "split": "train", "shuffle_seed": 4},
        "few": {"data": reviews, "split": "test[:3]"},
    }
    metrics = run(classifier, data, tmp_path / "out")
    assert list(metrics) == ["all", "few"]
    assert set(metrics["all"]) == {"accuracy", "f1", "num_examples"}
    assert [metrics[task]["num_examples"] for task in metrics] == [24, 3]
    records = read(tmp_path / "out" / "predictions" / "all.jsonl")
    assert [record["id"] for record in records] == splits.ids(data["all"])
    assert [record["label"] for record in records] == splits.load(data["all"])["label"][:]
    right = sum(record["label"] == record["prediction"] for record in records) / 24
    accuracy = metrics["all"]["accuracy"]
    assert accuracy["value"] == pytest.approx(right)
    assert accuracy["low"] <= accuracy["value"] <= accuracy["high"]
    assert {record["prediction_name"] for record in records} == {"0", "1"}
    assert set(records[0]) == {"id", "label", "prediction", "prediction_name", "probabilities"}


def test_sorting_by_length_and_batching_change_nothing(
    classifier: Path, reviews: Path, tmp_path: Path
) -> None:
    data = {"task": {"data": reviews, "split": "train"}}
    for size in (1, 7, 24):
        run(classifier, data, tmp_path / f"out{size}", batch_size=size)
    first, *others = (read(tmp_path / f"out{size}" / "predictions" / "task.jsonl") for size in (1, 7, 24))
    for records in others:
        for mine, theirs in zip(first, records, strict=True):
            assert mine["id"] == theirs["id"]
            assert mine["prediction"] == theirs["prediction"]
            assert mine["probabilities"] == pytest.approx(theirs["probabilities"], abs=2e-6)


def test_metrics_can_be_chosen(classifier: Path, reviews: Path, tmp_path: Path) -> None:
    data = {"task": {"data": reviews, "split": "test"}}
    metrics = run(classifier, data, tmp_path / "out", metrics=["matthews_correlation"])
    assert set(metrics["task"]) == {"matthews_correlation", "num_examples"}


def test_what_cannot_be_evaluated_leaves_nothing(
    classifier: Path, reviews: Path, digits: Path, tmp_path: Path
) -> None:
    good = {"data": reviews, "split": "test"}
    for data, error, message in [
        ({}, OptionError, "data names no task"),
        ({"a/b": good}, OptionError, "'a/b' holds other than letters"),
        ({"a": good, "b": {"data": reviews, "split": "test[12:]"}}, DataError, "is empty"),
        (
            {"a": good, "b": {"data": digits, "split": "test"}},
            DataError,
            "task 'b' has the labels",
        ),
    ]:
        with pytest.raises(error, match=message):
            run(classifier, data, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_scores_that_are_not_numbers_are_refused(classifier: Path, reviews: Path, tmp_path: Path) -> None:
    task = tasks.load(TASK)
    model = task.load_model(str(classifier))
    with torch.no_grad():
        model.bert.encoder.layer[0].output.LayerNorm.weight.fill_(3e38)
    with models.quiet():
        model.save_pretrained(tmp_path / "model")
        task.load_processor(model=str(classifier)).save_pretrained(tmp_path / "model")
    with pytest.raises(DataError, match="NaN or infinite scores"):
        run(tmp_path / "model", {"task": {"data": reviews, "split": "test"}}, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_predictions_need_no_labels(classifier: Path, reviews: Path, tmp_path: Path) -> None:
    data = {"data": reviews, "split": "test", "shuffle_seed": None}
    texts = tmp_path / "new.jsonl"
    texts.write_text("".join(json.dumps({"text": text}) + "\n" for text in splits.load(data)["text"]))
    for name, source in {"folder": data, "file": texts}.items():
        predict(
            task_type=TASK,
            model=classifier,
            data=source,
            options={"max_tokens": 16},
            out=tmp_path / f"{name}.jsonl",
        )
    of_folder, of_file = read(tmp_path / "folder.jsonl"), read(tmp_path / "file.jsonl")
    assert [record.pop("id") for record in of_folder] == [f"test/{row}" for row in range(12)]
    assert [record.pop("id") for record in of_file] == [str(row) for row in range(12)]
    assert of_folder == of_file
    assert set(of_file[0]) == {"prediction", "prediction_name", "probabilities"}
    assert sorted(file.name for file in tmp_path.iterdir() if file.name.startswith(".")) == []


def test_images_are_evaluated_too(digits: Path, vit_architecture: dict[str, Any], tmp_path: Path) -> None:
    task = tasks.load("image_classification")
    names = [str(digit) for digit in range(10)]
    model = task.build_model(
        model=None, architecture=vit_architecture, label_names=names, dropout=None, seed=0
    )
    with models.quiet():
        model.save_pretrained(tmp_path / "model")
    task.load_processor(model=None, architecture=vit_architecture).save_pretrained(tmp_path / "model")
    evaluate(
        task_type="image_classification",
        model=tmp_path / "model",
        data={"clean": {"data": digits, "split": "test[:30]"}},
        options={"bootstrap_samples": 5},
        out=tmp_path / "out",
    )
    assert json.loads((tmp_path / "out" / "metrics.json").read_text())["clean"]["num_examples"] == 30


def test_weights_in_memory_are_as_good_as_a_folder(classifier: Path, reviews: Path, tmp_path: Path) -> None:
    data = {"all": {"data": reviews, "split": "train"}}
    expected = run(classifier, data, tmp_path / "out")
    evaluator = Evaluator(task_type=TASK, model=classifier, data=data, options=OPTIONS)
    tensors = load_file(classifier / "model.safetensors")
    assert evaluator.run(tensors) == expected
    flipped = {**tensors, "classifier.weight": -tensors["classifier.weight"]}
    flipped["classifier.bias"] = -tensors["classifier.bias"]
    accuracy = evaluator.run(flipped)["all"]["accuracy"]["value"]
    assert accuracy == pytest.approx(1 - expected["all"]["accuracy"]["value"])


def test_each_task_has_its_own_head(classifier: Path, reviews: Path, tmp_path: Path) -> None:
    """Merged with ``head: per_task``: the same body, and the head that each task was trained with."""
    flipped = tmp_path / "flipped"
    shutil.copytree(classifier, flipped)
    tensors = load_file(classifier / "model.safetensors")
    for name in ("classifier.weight", "classifier.bias"):
        tensors[name] = -tensors[name]
    save_file(tensors, flipped / "model.safetensors", metadata={"format": "pt"})
    merge_checkpoints(
        method="average",
        options={},
        base=None,
        models={"one": classifier, "two": flipped},
        extras={},
        policy={"head": "per_task"},
        out=tmp_path / "merged",
    )
    data = {task: {"data": reviews, "split": "train"} for task in ("one", "two")}
    metrics = run(tmp_path / "merged", data, tmp_path / "out")
    one, two = (metrics[task]["accuracy"]["value"] for task in data)
    assert one == pytest.approx(run(classifier, data, tmp_path / "first")["one"]["accuracy"]["value"])
    assert two == pytest.approx(1 - one) and one != two
