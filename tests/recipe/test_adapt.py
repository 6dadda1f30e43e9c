"""Jobs that learn from unlabelled inputs refuse mistakes while the graph is built."""

from typing import Any

import pytest
from merging.errors import OptionError
from sisyphus import tk

from recipe.adapt import AdaMergingJob, SurgeryJob, WemoeJob

DATA = {"data": tk.Path("data"), "split": "validation", "shuffle_seed": 0}
ADAPT: dict[str, Any] = {
    "task_type": "sequence_classification",
    "base": tk.Path("model"),
    "models": {"a": tk.Path("a"), "b": tk.Path("b")},
    "data": {"a": DATA, "b": DATA},
    "options": {"num_steps": 10},
    "seed": 0,
}


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"data": {"a": DATA}}, r"data names the tasks \['a'\]"),
        ({"data": {"a": DATA, "b": {**DATA, "split": "test"}}}, "allow_test_split"),
        ({"options": {"steps": 10}}, "unknown option 'steps'"),
        ({"options": {"learning_rate": 1}}, r"Write 1\.0"),
        ({"policy": {"heads": "per_task"}}, "policy"),
        ({"seed": -1}, "seed must be"),
        ({"task_type": "captions"}, "unknown task type"),
    ],
)
def test_mistakes_are_found_at_once(wrong: dict[str, Any], message: str) -> None:
    job = AdaMergingJob(**ADAPT)
    assert "model/adaptation.json" in str(job.out_record)
    with pytest.raises(OptionError, match=message):
        AdaMergingJob(**{**ADAPT, **wrong})


def test_so_it_is_with_surgery_and_wemoe() -> None:
    surgery = {key: ADAPT[key] for key in ("task_type", "models", "data", "seed")}
    surgery |= {"model": tk.Path("merged"), "options": {"rank": 4}}
    assert str(SurgeryJob(**surgery).out_model).endswith("model")
    assert str(WemoeJob(**ADAPT).out_model).endswith("model")
    with pytest.raises(OptionError, match="surgery: rank must be 1 or more, got 0"):
        SurgeryJob(**{**surgery, "options": {"rank": 0}})
    with pytest.raises(OptionError, match="WemoeJob: depth must be"):
        WemoeJob(**{**ADAPT, "options": {"depth": 3}})
