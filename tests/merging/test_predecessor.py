import json
from pathlib import Path
from typing import Any

import pytest
from merging import predecessor
from merging.errors import OptionError
from merging.options import parse
from merging.predecessor.data import train_splits
from merging.predecessor.merge_programs import by_task, hessian_folder
from merging.predecessor.parameters import training_options
from merging.training.options import TrainingOptions

CONFIG = {"model_name_or_path": "model", "dataset_name": "imdb", "output_dir": "out"}


def run(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, config: dict[str, Any], program: str = "train"
) -> tuple[int, str]:
    file = tmp_path / "config.json"
    file.write_text(json.dumps(config))
    code = getattr(predecessor, program)([str(file)])
    return code, capsys.readouterr().err


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"learning_rat": 1}, "unknown parameter 'learning_rat'. Did you mean 'learning_rate'?"),
        (
            {"method": "seq_classification"},
            "unknown method 'seq_classification'. Did you mean 'sequence_classif",
        ),
        ({"method": "sequence_classification_squared_gradients"}, "unknown method"),
        ({"optimizer_name": "SGD"}, "optimizer_name may only be 'AdamW', got 'SGD'"),
        ({"use_peft": True}, "use_peft may only be False, got True. Merge the adapter into the model first."),
        ({"model_revision": "abc"}, "merging download --model ID --revision COMMIT"),
        ({"learning_rate": "fast"}, "learning_rate must be float, got 'fast'"),
        ({"num_train_epochs": 1.5}, "num_train_epochs must be a whole number, got 1.5"),
        ({"dataset_name": "datasets/imbd.py"}, "unknown data set script 'imbd'. Did you mean 'imdb'?"),
        ({"dataset_name": "imbd"}, "unknown data set 'imbd'. Did you mean 'imdb'?"),
        ({"model_name_or_path": None}, "'model_name_or_path' must be given"),
    ],
)
def test_mistakes(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    code, error = run(capsys, tmp_path, {**CONFIG, **change})
    assert code == 2
    assert message in error.splitlines()[-1]


def test_harmless_parameters_get_a_note(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    config = {**CONFIG, "cache_dir": "x", "track_fim": True, "min_lr": 0.0, "dataset_name": "nothing"}
    _, error = run(capsys, tmp_path, config)
    assert "note: cache_dir has no effect: the Hub's own variables HF_HOME and HF_TOKEN are used.\n" in error
    assert "note: track_fim has no effect: it was read nowhere.\n" in error
    assert "min_lr" not in error


def test_squared_gradients_need_an_output(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data/test.jsonl").write_text('{"text": "good", "label": 1}\n{"text": "bad", "label": 0}\n')
    config = {
        "model_name_or_path": "model",
        "dataset_name": str(tmp_path / "data"),
        "method": "sequence_classification_squared_gradients",
    }
    code, error = run(capsys, tmp_path, config, "predict")
    assert code == 2
    assert "'output_dir' must be given for sequence_classification_squared_gradients" in error


def test_numbers_are_taken_as_what_they_must_be() -> None:
    options = training_options({"learning_rate": 1, "num_train_epochs": 2.0, "lr_scheduler": "linear"})
    assert options["learning_rate"] == 1.0
    assert type(options["learning_rate"]) is float
    assert type(options["num_epochs"]) is int
    assert parse(TrainingOptions, options, owner="training").schedule == "linear"


def test_defaults_are_the_predecessors() -> None:
    parsed = parse(TrainingOptions, training_options({}), owner="training")
    assert (parsed.learning_rate, parsed.batch_size, parsed.num_epochs) == (5e-5, 8, 3)
    assert (parsed.adam_beta2, parsed.adam_epsilon, parsed.schedule) == (0.95, 1e-6, "cosine")
    assert parsed.max_tokens == 1024


def test_without_a_validation_split_the_training_set_is_cut(capsys: pytest.CaptureFixture[str]) -> None:
    train, validation = train_splits({"dataset_name": "imdb"}, "data", ["train", "test"])
    assert (train["split"], validation["split"]) == ("train[:90%]", "train[90%:]")
    assert "the best epoch is chosen on train[90%:]" in capsys.readouterr().err
    train, validation = train_splits(
        {"dataset_train_split": "train[:20%]", "dataset_val_split": None}, "data", ["train"]
    )
    assert (train["split"], validation) == ("train[:20%]", None)
    with pytest.raises(
        OptionError, match="dataset_val_split 'dev' is no split of imdb, which has train, test"
    ):
        train_splits(
            {"dataset_name": "imdb", "dataset_train_split": "train[:20%]", "dataset_val_split": "dev"},
            "data",
            ["train", "test"],
        )


MERGE = [
    *("--pretrained_model_name_or_path", "base", "--out_model_path", "out"),
    *("--ft_model_name_or_paths", "a/x,b/x"),
]
MATCH = [*MERGE, "--pretrained_hessian_path", "h0"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            [*MERGE, "--scaling_facto", "1"],
            "task_arithmetic.py: unknown parameter '--scaling_facto'. Did you mean",
        ),
        (MERGE[2:], "the following arguments are required: --pretrained_model_name_or_path"),
        ([*MERGE, "--task_type", "SEQ_CL"], "unknown task_type 'SEQ_CL'. Did you mean 'SEQ_CLS'?"),
        ([*MERGE, "--scaling_factor", "much"], "invalid float value: 'much'"),
        (MERGE, "base"),
    ],
)
def test_mistakes_in_task_arithmetic(
    capsys: pytest.CaptureFixture[str], words: list[str], message: str
) -> None:
    assert predecessor.task_arithmetic(words) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            [*MATCH, "--ft_hessian_paths", "ha", "--scaling_factors_ft", "1,2"],
            "--ft_hessian_paths has 1 values",
        ),
        (
            [*MATCH, "--ft_hessian_paths", "ha,hb", "--scaling_factors_ft", "1"],
            "--scaling_factors_ft has 1 values",
        ),
        ([*MATCH, "--ft_hessian_paths", "ha,hb", "--scaling_factors_ft", "1,x"], "'x' is no number"),
        (
            [*MATCH, "--ft_hessian_paths", "ha", "hb", "--scaling_factors_ft", "1", "2", "--delta_0", "0"],
            "delta_0 must be > 0, got 0.0",
        ),
    ],
)
def test_mistakes_in_gradient_matching(
    capsys: pytest.CaptureFixture[str], words: list[str], message: str
) -> None:
    assert predecessor.gradient_matching(words) == 2
    assert message in capsys.readouterr().err


def test_models_of_one_name_do_not_collide() -> None:
    assert by_task(["a/x,b/x"]) == {"000_x": "a/x", "001_x": "b/x"}
    assert by_task(["a", "b,c"]) == {"000_a": "a", "001_b,c": "b,c"}


def test_a_hessian_may_lie_below_its_folder(tmp_path: Path) -> None:
    assert hessian_folder(str(tmp_path)) == str(tmp_path)
    (tmp_path / "hessian").mkdir()
    (tmp_path / "hessian/hessian.json").write_text("{}")
    assert hessian_folder(str(tmp_path)) == str(tmp_path / "hessian")
