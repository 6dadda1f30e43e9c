"""``train.py`` and ``predict.py``: programs that take one JSON file."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from merging.errors import OptionError
from merging.predecessor.data import open_data, train_splits
from merging.predecessor.messages import run, say
from merging.predecessor.parameters import DEFAULT_SEED, OPTIONS, choose, portions, read, training_options

TRAIN_METHODS = ("sequence_classification",)
PREDICT_METHODS = ("sequence_classification", "sequence_classification_squared_gradients")
_COMMON = ("model_name_or_path", "method", "dataset_name", "output_dir", "per_device_eval_batch_size", "seed")
_TRAIN = (*_COMMON, "dataset_train_split", "dataset_val_split", *OPTIONS)
_PREDICT = (
    *_COMMON,
    "dataset_test_split",
    "max_input_length",
    "metric_output_file",
    "prediction_output_file",
)


def train(argv: Sequence[str]) -> int:
    """``python3 code/train.py train_config.json``; returns the exit code."""
    return run(_train, argv)


def predict(argv: Sequence[str]) -> int:
    """``python3 code/predict.py search_config.json``; returns the exit code."""
    return run(_predict, argv)


def _train(argv: Sequence[str]) -> None:
    config = read(
        "train.py", argv, known=_TRAIN, required=("model_name_or_path", "dataset_name", "output_dir")
    )
    choose("method", config.get("method", TRAIN_METHODS[0]), TRAIN_METHODS)
    options = training_options(config)
    from merging.training.run import train as train_model

    with open_data(config["dataset_name"]) as (folder, splits):
        data, validation = train_splits(config, folder, splits)
        train_model(
            task_type="sequence_classification",
            model=config["model_name_or_path"],
            architecture=None,
            data=data,
            validation=validation,
            options=options,
            seed=config.get("seed", DEFAULT_SEED),
            out=config["output_dir"],
            work=None,
        )
    say(f"wrote {config['output_dir']}")


def _predict(argv: Sequence[str]) -> None:
    config = read("predict.py", argv, known=_PREDICT, required=("model_name_or_path", "dataset_name"))
    method = config.get("method", PREDICT_METHODS[0])
    choose("method", method, PREDICT_METHODS)
    with open_data(config["dataset_name"]) as (folder, _):
        data = {"data": folder, "split": config.get("dataset_test_split", "test")}
        if method == "sequence_classification":
            _evaluate(config, data)
        else:
            _squared_gradients(config, data)


def _evaluate(config: Mapping[str, Any], data: Mapping[str, Any]) -> None:
    from merging.evaluation.run import evaluate

    with tempfile.TemporaryDirectory() as out:
        evaluate(
            task_type="sequence_classification",
            model=config["model_name_or_path"],
            data={"test": data},
            options=portions(config, batch_size=8),
            out=out,
        )
        measured = json.loads((Path(out) / "metrics.json").read_text(encoding="utf-8"))["test"]
        lines = (Path(out) / "predictions" / "test.jsonl").read_text(encoding="utf-8").splitlines()
    metrics = {name: round(entry["value"], 5) for name, entry in measured.items() if isinstance(entry, dict)}
    say(json.dumps(metrics))
    _write_json(config.get("metric_output_file"), metrics)
    _write_json(config.get("prediction_output_file"), [json.loads(line) for line in lines])


def _squared_gradients(config: Mapping[str, Any], data: Mapping[str, Any]) -> None:
    from merging.hessians.estimate import estimate

    if "output_dir" not in config:
        raise OptionError(
            "predict.py: 'output_dir' must be given for sequence_classification_squared_gradients."
        )
    out = Path(config["output_dir"]) / "hessian"
    estimate(
        estimator="fisher_mc",
        task_type="sequence_classification",
        model=config["model_name_or_path"],
        data=data,
        options=portions(config, batch_size=8),
        seed=config.get("seed", DEFAULT_SEED),
        out=out,
    )
    say(f"wrote {out}")


def _write_json(file: str | None, value: Any) -> None:
    if file is not None:
        Path(file).parent.mkdir(parents=True, exist_ok=True)
        Path(file).write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
