"""Regression: numbers in, numbers out, Fishers of a Gaussian, and a whole experiment."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import torch
from merging import tasks
from merging.adaptation.run import adapt
from merging.errors import CheckpointError, DataError, OptionError
from merging.hessians import _gaussian
from merging.hessians.artifact import StoredHessian
from merging.models import quiet
from torch import Tensor

TASK = "regression"
TEXTS = ["good", "bad very very film 3 4 5", "film 7"]
WriteData = Callable[..., Path]


def rows_of(columns: dict[str, list[Any]]) -> list[dict[str, Any]]:
    return [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]


@pytest.fixture
def regressor(tiny_language_model: Path, tmp_path: Path) -> Path:
    folder = tmp_path / "regressor"
    task = tasks.load(TASK)
    model = task.build_model(
        model=str(tiny_language_model), architecture=None, label_names=("value",), dropout=None, seed=0
    )
    with quiet():
        model.save_pretrained(folder)
        task.load_processor(model=str(tiny_language_model)).save_pretrained(folder)
    return folder


def test_numbers_go_in_and_come_out(regressor: Path) -> None:
    task = tasks.load(TASK)
    tokenizer, model = task.load_processor(model=str(regressor)), task.load_model(str(regressor))
    batch = task.collate(
        rows_of(task.encode({"text": TEXTS, "label": [0.5, -1.25, 3.0]}, tokenizer, max_tokens=16)), tokenizer
    )
    assert batch["labels"].dtype == torch.float32 and batch["labels"].tolist() == [0.5, -1.25, 3.0]
    labels = batch.pop("labels")
    scores = task.scores(model, batch)
    assert scores.shape == (3, 1)
    records = task.predictions(scores.detach().numpy(), ("value",))
    assert [record["prediction"] for record in records] == pytest.approx(scores.flatten().tolist())
    torch.testing.assert_close(model(**batch, labels=labels).loss, ((scores[:, 0] - labels) ** 2).mean())


def test_fishers_are_those_of_single_examples(regressor: Path, check_fishers: Callable[..., None]) -> None:
    task = tasks.load(TASK)
    tokenizer, model = task.load_processor(model=str(regressor)), task.load_model(str(regressor)).double()
    columns = task.encode({"text": TEXTS, "label": [0.5, -1.0, 3.0]}, tokenizer, max_tokens=16)

    def log_p(scores: Tensor, labels: Tensor) -> Tensor:
        return -((labels.double() - scores.flatten()) ** 2).sum() / 2

    check_fishers(task, tokenizer, model, rows_of(columns), log_p)


def test_draws_are_gaussian_and_belong_to_the_example() -> None:
    scores = torch.arange(4000.0).view(-1, 1)
    where = _gaussian.counted(scores, None)
    keys = [(0, example, 0) for example in range(4000)]
    noise = _gaussian.draw(scores, where, keys) - scores
    assert noise.mean().abs() < 0.05 and abs(noise.var() - 1) < 0.1
    alone = _gaussian.draw(scores[17:18], where[17:18], keys[17:18])
    torch.testing.assert_close(alone, scores[17:18] + noise[17:18])


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"text": ["a"]}, "no column 'label'"),
        ({"text": [1], "label": [1.0]}, "must hold strings"),
        ({"text": ["a"], "label": [1]}, "regression needs numbers of type float"),
        ({"text": ["a", "b"], "label": [1.0, float("nan")]}, "label nan of row 1 is no finite number"),
        ({"text": ["a", "b"], "label": [None, 1.0]}, "of row 0 is no finite number"),
    ],
)
def test_data_of_another_kind_are_refused(columns: dict[str, list[Any]], message: str) -> None:
    with pytest.raises(DataError, match=message):
        tasks.load(TASK).check(datasets.Dataset.from_dict(columns))


def test_a_classifier_is_no_regressor(tiny_language_model: Path, tmp_path: Path) -> None:
    model = tasks.load("sequence_classification").build_model(
        model=str(tiny_language_model), architecture=None, label_names=("no", "yes"), dropout=None, seed=0
    )
    with quiet():
        model.save_pretrained(tmp_path / "classifier")
    with pytest.raises(CheckpointError, match=r"has 2 scores for a text, \['no', 'yes'\]; regression"):
        tasks.load(TASK).load_model(str(tmp_path / "classifier"))
    with pytest.raises(CheckpointError, match=r"was trained for the labels \['no', 'yes'\]"):
        tasks.load(TASK).build_model(
            model=str(tmp_path / "classifier"),
            architecture=None,
            label_names=("value",),
            dropout=None,
            seed=0,
        )


def test_a_regressor_is_no_classifier(regressor: Path) -> None:
    with pytest.raises(CheckpointError, match="has one score for a text, so there are no classes"):
        tasks.load("sequence_classification").load_model(str(regressor))


def test_every_estimator(
    regressor: Path, write_data: WriteData, check_estimators: Callable[..., None]
) -> None:
    data = write_data("numbers", {"train": [{"text": text, "label": 0.5} for text in TEXTS * 2]})
    check_estimators(TASK, regressor, data, refused={})


def test_numbers_have_no_entropy_to_minimise(regressor: Path, write_data: WriteData, tmp_path: Path) -> None:
    data = write_data("numbers", {"train": [{"text": text, "label": 0.5} for text in TEXTS]})
    with pytest.raises(OptionError, match="regression predicts numbers"):
        adapt(
            task_type=TASK,
            base=regressor,
            models={"a": regressor, "b": regressor},
            data={name: {"data": data, "split": "train"} for name in ("a", "b")},
            options={"num_steps": 1, "max_tokens": 8},
            seed=0,
            out=tmp_path / "adapted",
        )


def test_from_training_to_a_merged_model_that_is_judged(
    tiny_language_model: Path, experiment: Callable[..., Any]
) -> None:
    counts = {name: [row % 5 for row in range(start, start + 20)] for name, start in (("a", 0), ("b", 3))}
    rows = {
        name: [{"text": " ".join(["good"] * count + ["bad"]), "label": count / 2} for count in its]
        for name, its in counts.items()
    }
    found = experiment(TASK, tiny_language_model, rows, num_test=8, learning_rate=0.01, num_epochs=8)
    assert StoredHessian(found.fishers["a"], label="a").record.label_names == ("value",)
    assert set(found.judge(found.merged)) == {"a", "b"}
    own = found.judge(found.models["a"])["a"]
    assert set(own) == {"pearson", "spearman", "mean_squared_error", "num_examples"}
    assert own["pearson"]["value"] > 0.9
    lines = found.predictions(found.models["a"], "a")
    assert own["mean_squared_error"]["value"] == pytest.approx(
        np.mean([(line["prediction"] - line["label"]) ** 2 for line in lines])
    )
    assert set(found.predict({"text": "good bad"})) == {"id", "prediction"}
