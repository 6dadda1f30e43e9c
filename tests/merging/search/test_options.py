from typing import Any

import pytest
from merging.errors import OptionError
from merging.search.options import check_search, options_at

CALL: dict[str, Any] = {
    "method": "task_arithmetic",
    "fixed": {},
    "space": {"scaling_factor": {"low": 0.0, "high": 1.0, "step": 0.25}},
    "options": {"strategy": "grid"},
    "extras": {},
    "tasks": ("b", "a"),
    "has_base": True,
}


def test_steps_hit_both_ends() -> None:
    _, (coefficient,) = check_search(**CALL)
    assert coefficient.choices == (0.0, 0.25, 0.5, 0.75, 1.0)
    assert options_at({}, {coefficient: 0.5}) == {"scaling_factor": 0.5}


def test_steps_of_a_tenth_are_not_lost_to_rounding() -> None:
    space = {"scaling_factor": {"low": 0.0, "high": 1.0, "step": 0.05}}
    _, (coefficient,) = check_search(**{**CALL, "space": space})
    assert coefficient.choices is not None and len(coefficient.choices) == 21
    assert coefficient.choices[-1] == 1.0 and coefficient.choices[3] == 0.15


def test_a_coefficient_for_each_task() -> None:
    space = {"scaling_factor": {"low": 0.0, "high": 1.0, "per_task": True}}
    _, ranges = check_search(**{**CALL, "space": space, "options": {"strategy": "random"}})
    assert [its.name for its in ranges] == ["scaling_factor[a]", "scaling_factor[b]"]
    point = dict(zip(ranges, (0.1, 0.2), strict=True))
    assert options_at({}, point) == {"scaling_factor": {"a": 0.1, "b": 0.2}}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"space": {}}, "space is empty"),
        ({"space": {"scaling_facto": [0.5]}}, "unknown option 'scaling_facto'. Did you mean"),
        ({"space": {"scaling_factor": [1]}}, "must be a list of floats"),
        ({"space": {"scaling_factor": {"low": 0.0}}}, "high must be a finite float, got None"),
        ({"space": {"scaling_factor": {"low": 1.0, "high": 0.0}}}, "low must be below high"),
        ({"space": {"scaling_factor": {"low": 0.0, "high": 1.0, "lo": 1}}}, "unknown key 'lo'"),
        ({"space": {"scaling_factor": {"low": 0.0, "high": 1.0}}}, "a grid needs a step"),
        ({"space": {"scaling_factor": {"low": 0.0, "high": 1.0, "log": True}}}, "low must be > 0"),
        ({"space": {"scaling_factor": {"low": 0.0, "high": 1.0, "step": 2.0}}}, "step must be a float > 0"),
        ({"options": {"strategy": "grid", "num_trials": 4}}, "the grid has 5 points, num_trials is 4"),
        ({"options": {"strategy": "gird"}}, "strategy must be"),
        ({"options": {"num_trials": 0}}, "num_trials must be 1 or more"),
        ({"method": "ties", "space": {"density": [0.5, 2.0]}}, "density must be"),
        ({"options": {"strategy": "greedy_soup"}}, "for the method 'soup' and takes no space"),
        ({"has_base": False}, "missing base"),
    ],
)
def test_mistakes_are_found_before_anything_is_run(change: dict[str, Any], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        check_search(**{**CALL, **change})
