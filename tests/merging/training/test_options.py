"""Training options are checked while the graph is built."""

import subprocess
import sys
from typing import Any

import pytest
from merging.errors import OptionError
from merging.options import parse
from merging.training.options import TrainingOptions

GOOD: dict[str, Any] = {"learning_rate": 1e-3, "batch_size": 4, "num_epochs": 1}


def test_defaults_are_plain_adamw() -> None:
    options = parse(TrainingOptions, GOOD, owner="training")
    assert (options.schedule, options.weight_decay, options.precision) == ("linear", 0.0, "float32")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"learning_rat": 1.0}, r"training: unknown option 'learning_rat'\. Did you mean 'learning_rate'\?"),
        ({"learning_rate": 1}, r"learning_rate must be float, got 1 of type int\. Write 1\.0"),
        ({"learning_rate": 0.0}, r"learning_rate must be greater than 0, got 0\.0"),
        ({"learning_rate": float("nan")}, "learning_rate must be greater than 0, got nan"),
        ({"batch_size": 0}, "batch_size must be at least 1, got 0"),
        ({"num_epochs": 0}, "num_epochs must be at least 1, got 0"),
        ({"max_steps": 5}, "exactly one of num_epochs and max_steps, got 1 and 5"),
        ({"num_epochs": None}, "exactly one of num_epochs and max_steps, got None and None"),
        ({"warmup_steps": -1}, "warmup_steps must be 0 or more, got -1"),
        ({"weight_decay": float("inf")}, "weight_decay must be 0 or more, got inf"),
        ({"adam_beta2": 1.0}, r"adam_beta2 must be in 0\.\.1 \(1 excluded\), got 1\.0"),
        ({"dropout": -0.1}, "dropout must be in"),
        ({"schedule": "linaer"}, "schedule must be one of 'linear', 'cosine'"),
        ({"precision": "float16"}, "precision must be one of 'float32', 'bf16', 'fp16'"),
        ({"early_stopping_patience": 0}, "early_stopping_patience must be at least 1"),
        ({"max_tokens": 0}, "max_tokens must be at least 1"),
    ],
)
def test_what_is_out_of_range_is_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        parse(TrainingOptions, {**GOOD, **change}, owner="training")


def test_schedules_are_those_of_transformers() -> None:
    import typing

    from merging.training.options import Schedule
    from transformers import SchedulerType

    assert set(typing.get_args(Schedule)) <= {schedule.value for schedule in SchedulerType}


def test_options_import_nothing_heavy() -> None:
    code = (
        "import sys, merging.training.options, merging.evaluation.options;"
        "assert not {'torch', 'transformers', 'datasets', 'evaluate', 'numpy'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
