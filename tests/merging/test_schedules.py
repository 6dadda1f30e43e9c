from typing import Any

import pytest
import torch
from merging.errors import OptionError
from merging.merge.streaming import merge_tensors
from merging.methods import average, check_call, task_arithmetic
from merging.schedules import Schedule
from torch import Tensor
from torch.testing import assert_close

NAMES = [f"encoder.layer.{number}.{part}" for number in range(5) for part in ("attention", "mlp.weight")]
NAMES += ["embedding", "decoder.layer.0.w", "decoder.layer.1.w"]


def factors(value: Any) -> dict[str, Any]:
    schedule = Schedule(task_arithmetic.Options, {"scaling_factor": value}, owner="it")
    resolver = schedule.resolver(NAMES)
    return {name: resolver.at(name).scaling_factor for name in NAMES}


def test_a_number_is_the_same_everywhere() -> None:
    assert set(factors(0.5).values()) == {0.5}


def test_gradient() -> None:
    """Interpolated over the layers of each stack; outside of layers, the first number."""
    found = factors([0.0, 1.0, 0.0])
    assert [found[f"encoder.layer.{number}.attention"] for number in range(5)] == [0.0, 0.5, 1.0, 0.5, 0.0]
    assert found["embedding"] == 0.0
    assert (found["decoder.layer.0.w"], found["decoder.layer.1.w"]) == (0.0, 0.0)
    assert factors([2.0])["encoder.layer.4.attention"] == 2.0


def test_first_filter_that_matches() -> None:
    found = factors([{"filter": "*.mlp.*", "value": [0.0, 1.0]}, {"filter": "*", "value": 0.25}])
    assert [found[f"encoder.layer.{number}.mlp.weight"] for number in range(5)] == [0, 0.25, 0.5, 0.75, 1]
    assert found["encoder.layer.3.attention"] == found["embedding"] == 0.25


def test_nothing_matches() -> None:
    """The option keeps its default."""
    found = factors([{"filter": "embedding", "value": 0.5}])
    assert found["embedding"] == 0.5
    assert found["encoder.layer.0.attention"] == task_arithmetic.Options().scaling_factor


def test_by_task() -> None:
    found = factors({"a": [0.0, 1.0], "b": 0.5})
    assert found["encoder.layer.1.attention"] == {"a": 0.25, "b": 0.5}


def test_filters_of_one_task_leave_the_others_alone() -> None:
    """Where none matches, that task has the default, and only that one."""
    found = factors({"a": 0.25, "b": [{"filter": "*.mlp.*", "value": 0.5}]})
    assert found["encoder.layer.1.mlp.weight"] == {"a": 0.25, "b": 0.5}
    assert found["embedding"] == {"a": 0.25, "b": task_arithmetic.Options().scaling_factor}


def test_filters_of_one_task_without_a_default() -> None:
    options = {"weights": {"a": 0.25, "b": [{"filter": "*.mlp.*", "value": 0.5}]}}
    with pytest.raises(OptionError, match="weights of 'b' has filters only"):
        Schedule(average.Options, options, owner="average")


def test_a_filter_that_matches_nothing() -> None:
    for value in (
        [{"filter": "*.mpl.*", "value": 0.5}],
        {"a": [{"filter": "*.mpl.*", "value": 0.5}], "b": 1.0},
    ):
        schedule = Schedule(task_arithmetic.Options, {"scaling_factor": value}, owner="it")
        with pytest.raises(
            OptionError, match=r"'\*\.mpl\.\*', which matches no tensor. Names are like 'decoder"
        ):
            schedule.check_filters(NAMES)
        schedule.check_filters(["a.mpl.b"])


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ([0.0, float("nan")], "scaling_factor must be finite, got nan"),
        ([{"filter": "*", "value": float("inf")}], "must be finite"),
        ([{"filte": "*", "value": 1.0}], "unknown key 'filte'. Did you mean 'filter'"),
        ([{"filter": "*"}], "lacks 'value'"),
        ([{"filter": 3, "value": 1.0}], "filter must be a pattern"),
        ([], "must be a number, a list of numbers"),
        ([0.5, "x"], "must be a number, a list of numbers"),
        ([{"filter": "*", "value": "x"}], "scaling_factor must be"),
    ],
)
def test_what_is_wrong_anywhere_is_found(value: Any, message: str) -> None:
    with pytest.raises(OptionError, match=message):
        factors(value)


def test_unknown_task_inside_of_a_filter() -> None:
    value = [{"filter": "x", "value": {"a": 1.0, "c": 1.0}}, {"value": 1.0}]
    with pytest.raises(OptionError, match="unknown task 'c'"):
        check_call("task_arithmetic", {"scaling_factor": value}, {}, tasks=["a", "b"])


def test_no_gradient_for_what_is_no_number() -> None:
    with pytest.raises(OptionError, match="normalize must be"):
        check_call("average", {"normalize": [True, False]}, {})


def test_merge_with_a_gradient() -> None:
    def model(value: float) -> dict[str, Tensor]:
        return {f"layer.{number}.w": torch.full((3,), value) for number in range(3)}

    merged = merge_tensors(
        method="task_arithmetic",
        options={"scaling_factor": {"a": [0.0, 1.0], "b": 2.0}},
        base=model(0.0),
        models={"a": model(1.0), "b": model(10.0)},
        extras={},
    )
    for number, share in enumerate((0.0, 0.5, 1.0)):
        assert_close(merged[f"layer.{number}.w"], torch.full((3,), 20 + share))
