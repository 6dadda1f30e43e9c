"""Trainings of tiny models: what comes out, what is refused, and what a kill leaves."""

import csv
import json
import random
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from merging import tasks
from merging.errors import CheckpointError, DataError, DiskSpaceError, DivergenceError, OptionError
from merging.training import run
from merging.training.run import train
from safetensors.torch import load_file

OPTIONS: dict[str, Any] = {"learning_rate": 3e-3, "batch_size": 8, "num_epochs": 2, "max_tokens": 8}
Train = Callable[..., Path]


@pytest.fixture
def train_text(tmp_path: Path, reviews: Path, tiny_language_model: Path) -> Train:
    """``train_text(name, options)`` trains on the tiny reviews and returns the model folder."""

    def start(name: str, options: dict[str, Any] | None = None, **arguments: Any) -> Path:
        defaults: dict[str, Any] = {
            "task_type": "sequence_classification",
            "model": tiny_language_model,
            "architecture": None,
            "data": {"data": reviews, "split": "train"},
            "validation": {"data": reviews, "split": "validation"},
            "seed": 0,
            "work": tmp_path / f"{name}_work",
        }
        out = tmp_path / name
        train(**{**defaults, **arguments}, options={**OPTIONS, **(options or {})}, out=out)
        return out

    return start


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


def same(first: Path, second: Path) -> bool:
    a, b = weights(first), weights(second)
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def lines(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text().splitlines()]


def log(folder: Path) -> list[dict[str, str]]:
    with (folder / "training_log.csv").open(newline="") as stream:
        return list(csv.DictReader(stream))


def test_a_training_learns_and_leaves_a_complete_folder(
    train_text: Train, reviews: Path, tiny_language_model: Path, tmp_path: Path
) -> None:
    out = train_text("model", {"num_epochs": 12, "best_by": "metric", "learning_rate": 0.02, "dropout": 0.0})
    record = json.loads((out / "training.json").read_text())
    assert record["num_train_examples"] == 24
    assert record["num_steps"] == 36
    assert record["label_names"] == ["0", "1"]
    assert record["seed"] == 0
    assert record["data"][0]["source"] == "local/reviews"
    assert record["best"]["eval_accuracy"] == 1.0
    assert record["best"]["epoch"] < 12  # the first of equal epochs wins
    assert {"config.json", "tokenizer.json", "model.safetensors"} <= {file.name for file in out.iterdir()}
    entries = log(out)
    assert entries[-1]["validation_accuracy"] == "1.0"
    assert float(entries[-1]["validation_loss"]) < float(entries[2]["validation_loss"])
    model = tasks.load("sequence_classification").load_model(str(out))
    assert model.config.id2label == {0: "0", 1: "1"}
    left = {file.name for file in (tmp_path / "model_work").iterdir()}
    assert left == {"progress.jsonl"}
    progress = lines(tmp_path / "model_work" / "progress.jsonl")
    assert progress[-1]["total_steps"] == 36
    assert set(progress[0]) == {
        "step",
        "total_steps",
        "epoch",
        "loss",
        "learning_rate",
        "examples_per_s",
        "seconds_left",
    }


def test_an_image_model_is_trained_from_scratch(
    digits: Path, vit_architecture: dict[str, Any], tmp_path: Path
) -> None:
    train(
        task_type="image_classification",
        model=None,
        architecture=vit_architecture,
        data={"data": digits, "split": "train[:64]"},
        validation=None,
        options={"learning_rate": 1e-3, "batch_size": 32, "max_steps": 3},
        seed=1,
        out=tmp_path / "model",
        work=tmp_path / "work",
    )
    record = json.loads((tmp_path / "model" / "training.json").read_text())
    assert (record["num_steps"], record["best"], record["validation"]) == (3, None, None)
    assert record["architecture"] == vit_architecture
    tasks.load("image_classification").load_processor(model=str(tmp_path / "model"))


def test_equal_seeds_give_equal_bits_and_touch_no_generator(train_text: Train) -> None:
    random.seed(3), np.random.seed(3), torch.manual_seed(3)
    expected = random.Random(3).random(), np.random.RandomState(3).random(), torch.random.get_rng_state()
    first, second = train_text("first"), train_text("second")
    assert (random.random(), np.random.random()) == expected[:2]
    assert torch.equal(torch.random.get_rng_state(), expected[2])
    assert same(first, second)
    assert not same(first, train_text("third", seed=1))


def test_accumulated_batches_are_one_large_batch(train_text: Train) -> None:
    """Clipping makes the scale of the gradient matter, which AdamW alone would hide."""
    options = {"dropout": 0.0, "max_grad_norm": 0.01, "adam_epsilon": 0.01}
    large = weights(train_text("large", {**options, "batch_size": 8}))
    small = weights(train_text("small", {**options, "batch_size": 2, "gradient_accumulation_steps": 4}))
    for name, tensor in large.items():
        torch.testing.assert_close(small[name], tensor, rtol=1e-4, atol=1e-5)


def test_the_batch_size_counts_accumulated_batches_apart(train_text: Train) -> None:
    out = train_text("model", {"batch_size": 4, "gradient_accumulation_steps": 3})
    assert json.loads((out / "training.json").read_text())["num_steps"] == 4  # 24 / (4 * 3) steps an epoch


def test_several_data_sets_are_one_multitask_training(train_text: Train, reviews: Path) -> None:
    both = [{"data": reviews, "split": "train[:50%]"}, {"data": reviews, "split": "train[50%:]"}]
    out = train_text("model", data=both)
    record = json.loads((out / "training.json").read_text())
    assert record["num_train_examples"] == 24
    assert len(record["data"]) == 2


def test_the_best_epoch_is_kept_not_the_last(train_text: Train) -> None:
    """A rising learning rate ruins the model: the validation loss says which epoch was best."""
    out = train_text(
        "model", {"num_epochs": 6, "learning_rate": 0.3, "warmup_steps": 18, "max_grad_norm": 0.0}
    )
    losses = [float(entry["validation_loss"]) for entry in log(out) if entry["validation_loss"]]
    record = json.loads((out / "training.json").read_text())
    assert record["best"]["eval_loss"] == pytest.approx(min(losses))
    assert record["best"]["step"] < 18
    alone = train_text(
        "alone",
        {"num_epochs": 6, "learning_rate": 0.3, "warmup_steps": 18, "max_grad_norm": 0.0},
        validation=None,
    )
    assert not same(out, alone)


def test_patience_stops_early(train_text: Train) -> None:
    options = {"num_epochs": 8, "learning_rate": 0.3, "max_grad_norm": 0.0, "early_stopping_patience": 2}
    record = json.loads((train_text("model", options) / "training.json").read_text())
    assert record["num_steps"] == record["best"]["step"] + 2 * 3 < 24


def test_dropout_of_the_options_is_used(train_text: Train) -> None:
    assert same(train_text("default"), train_text("stated", {"dropout": 0.1}))  # 0.1 is BERT's own
    assert not same(train_text("other", {"dropout": 0.0}), train_text("default_again"))


def test_bf16_trains_float32_weights(train_text: Train) -> None:
    found = weights(train_text("model", {"precision": "bf16"}))
    assert {tensor.dtype for tensor in found.values()} == {torch.float32}


KILLED: dict[str, Any] = {
    "task_type": "sequence_classification",
    "architecture": None,
    "options": {
        **OPTIONS,
        "batch_size": 4,
        "num_epochs": 4,
        "gradient_accumulation_steps": 2,
        "dropout": 0.2,
        "schedule": "cosine",
        "warmup_steps": 2,
    },
    "seed": 3,
    "checkpoint_steps": 2,
}
KILL = """
import json, os, signal, sys
from merging.training import callbacks, run

arguments, killed_at = json.loads(sys.argv[1]), int(sys.argv[2])

class Kill(callbacks.TrainerCallback):
    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == killed_at:
            os.kill(os.getpid(), signal.SIGKILL)

run.Progress = lambda *a, **k: Kill()
run.train(**arguments)
"""


@pytest.mark.parametrize("killed_at", [3, 11])
def test_a_killed_training_ends_with_the_same_bits(
    killed_at: int, tmp_path: Path, reviews: Path, tiny_language_model: Path
) -> None:
    """12 steps with dropout; killed in the middle of an epoch, with half of a checkpoint left behind."""

    def arguments(name: str) -> dict[str, Any]:
        return {
            **KILLED,
            "model": str(tiny_language_model),
            "data": {"data": str(reviews), "split": "train"},
            "validation": {"data": str(reviews), "split": "validation"},
            "out": str(tmp_path / name),
            "work": str(tmp_path / f"{name}_work"),
        }

    train(**arguments("whole"))
    command = [sys.executable, "-c", KILL, json.dumps(arguments("killed")), str(killed_at)]
    assert subprocess.run(command, capture_output=True).returncode == -signal.SIGKILL
    assert not (tmp_path / "killed").exists()
    half = tmp_path / "killed_work" / f"checkpoint-{killed_at + 1}"
    half.mkdir()
    (half / "model.safetensors").write_bytes(b"cut off")
    train(**arguments("killed"))
    progress = lines(tmp_path / "killed_work" / "progress.jsonl")
    assert progress[0]["step"] == killed_at  # one after the last checkpoint
    assert same(tmp_path / "whole", tmp_path / "killed")
    records = [json.loads((tmp_path / name / "training.json").read_text()) for name in ("whole", "killed")]
    assert records[0]["best"] == records[1]["best"]


def test_the_work_folder_of_another_training_is_refused(train_text: Train, tmp_path: Path) -> None:
    work = tmp_path / "shared_work"
    with pytest.raises(DivergenceError):
        train_text("first", {"learning_rate": 1e30}, work=work)
    with pytest.raises(OptionError, match=r"work folder .* holds a training with another options, seed\."):
        train_text("second", seed=1, work=work)


def test_a_diverging_training_says_so(train_text: Train, tmp_path: Path) -> None:
    with pytest.raises(DivergenceError, match=r"diverged: .* is (nan|inf) at step \d+\. Lower the learning"):
        train_text("model", {"learning_rate": 1e30, "max_grad_norm": 0.0})
    assert not (tmp_path / "model").exists()


def test_too_little_room_is_refused_before_the_first_step(
    train_text: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: SimpleNamespace(free=1000))
    monkeypatch.setattr(run, "TaskTrainer", None)  # not even made
    with pytest.raises(DiskSpaceError, match=r"needs .* kB, but only .* free"):
        train_text("model")


def test_a_disk_that_fills_up_is_explained_and_the_training_goes_on_later(
    train_text: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save = run.TaskTrainer._save_checkpoint

    def full(trainer: Any, *arguments: Any, **kwargs: Any) -> None:
        if trainer.state.global_step == 4:
            raise OSError(28, "No space left on device")
        save(trainer, *arguments, **kwargs)

    with (
        monkeypatch.context() as patch,
        pytest.raises(DiskSpaceError, match="no room left for checkpoints"),
    ):
        patch.setattr(run.TaskTrainer, "_save_checkpoint", full)
        train_text("model", checkpoint_steps=2)
    assert (tmp_path / "model_work" / "checkpoint-2").exists()
    assert same(train_text("model", checkpoint_steps=2), train_text("undisturbed"))


def test_no_training_set_may_be_empty(train_text: Train, reviews: Path) -> None:
    with pytest.raises(DataError, match=r"split 'train\[24:\]' of .* is empty"):
        train_text("model", data={"data": reviews, "split": "train[24:]"})


def test_labels_must_agree(
    train_text: Train, reviews: Path, digits: Path, vit_architecture: dict[str, Any], tmp_path: Path
) -> None:
    model = train_text("model")
    with pytest.raises(
        DataError, match=r"training set has the labels \['0', '1'\], the validation set \['0',"
    ):
        train_text("other", validation={"data": digits, "split": "test"})
    config = json.loads((model / "config.json").read_text())
    config["id2label"] = {"0": "negative", "1": "positive"}
    (model / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match=r"was trained for the labels \['negative', 'positive'\]"):
        train_text("third", model=model)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"model": None}, "exactly one of model"),
        ({"architecture": {"model_type": "bert"}}, "exactly one of model"),
        ({"seed": -1}, "seed must be an int in"),
        ({"seed": "1"}, "seed must be an int in"),
        ({"task_type": "sequence_clasification"}, "unknown task type 'sequence_clasification'"),
        ({"validation": None, "options": {"best_by": "metric"}}, "best_by='metric' needs a validation set"),
        ({"options": {"max_tokens": 17}}, r"max_tokens must be in 1\.\.16"),
        ({"options": {"precision": "fp16"}}, "precision 'fp16' needs a GPU"),
        ({"data": {"data": "d", "split": "train[1]"}}, "cannot read split"),
    ],
)
def test_bad_input_is_refused_before_anything_is_made(
    train_text: Train,
    tmp_path: Path,
    arguments: dict[str, Any],
    message: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(OptionError, match=message):
        train_text("model", **arguments)
    assert not (tmp_path / "model").exists()


def test_two_processes_share_the_steps_of_one_training(
    tmp_path: Path, reviews: Path, tiny_language_model: Path, train_text: Train
) -> None:
    arguments = {
        "task_type": "sequence_classification",
        "model": str(tiny_language_model),
        "architecture": None,
        "data": {"data": str(reviews), "split": "train"},
        "validation": {"data": str(reviews), "split": "validation"},
        "options": OPTIONS,
        "seed": 0,
        "out": str(tmp_path / "two"),
        "work": str(tmp_path / "two_work"),
    }
    script = tmp_path / "script.py"
    script.write_text(f"from merging.training.run import train\ntrain(**{arguments!r})\n")
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc_per_node=2",
        str(script),
    ]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    record = json.loads((tmp_path / "two" / "training.json").read_text())
    assert record["num_steps"] == 6  # 24 examples, 8 in a step, 2 epochs: as with one process
    alone = json.loads((train_text("one") / "training.json").read_text())
    assert record["best"]["eval_loss"] == pytest.approx(alone["best"]["eval_loss"], abs=0.1)
    assert [entry["step"] for entry in lines(tmp_path / "two_work" / "progress.jsonl")] == list(range(1, 7))


def test_a_batch_is_shared_by_all_processes(train_text: Train, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "3")
    with pytest.raises(OptionError, match="batch_size 8 cannot be shared by 3 processes"):
        train_text("model")
