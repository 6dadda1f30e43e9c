"""The folder as a registry, and the check of a call that needs no tensor."""

import subprocess
import sys
from typing import Any

import pytest
from merging import methods
from merging.errors import OptionError, UnknownNameError


def test_names_are_the_files() -> None:
    assert {"average", "fisher", "gradient_matching", "task_arithmetic"} <= set(methods.names())


def test_inputs_are_the_signature() -> None:
    assert methods.inputs("average") == ("models",)
    assert methods.inputs("task_arithmetic") == ("base", "models")
    assert methods.inputs("fisher") == ("models", "hessians")
    assert methods.inputs("gradient_matching") == ("base", "models", "base_hessian", "hessians")


def test_misspelt_method() -> None:
    with pytest.raises(
        UnknownNameError, match=r"unknown merge method 'task_arithmatic'\. Did you mean 'task_ar"
    ):
        methods.load("task_arithmatic")


def test_private_files_are_no_methods() -> None:
    with pytest.raises(UnknownNameError, match="unknown merge method '_tasks'"):
        methods.load("_tasks")


@pytest.mark.parametrize("name", methods.names())
def test_every_method_says_what_it_is(name: str) -> None:
    module = methods.load(name)
    assert module.__doc__ and module.merge.__doc__
    assert module.Options() == module.Options(), "options have defaults and compare by value"


def test_a_good_call_returns_the_options() -> None:
    hessians = {"a": "folder", "b": {"hessian": "folder", "scale": 2.0}}
    schedule = methods.check_call("fisher", {"floor": 0.5}, {"hessians": hessians}, tasks=["b", "a"])
    assert schedule.common == methods.load("fisher").Options(floor=0.5)


BAD_CALLS: list[tuple[str, dict[str, Any], dict[str, Any], str]] = [
    (
        "task_arithmetic",
        {"scaling_facto": 1.0},
        {},
        "unknown option 'scaling_facto'. Did you mean 'scaling_factor'",
    ),
    (
        "task_arithmetic",
        {"scaling_factor": 1},
        {},
        r"scaling_factor must be .* got 1 of type int\. Write 1\.0",
    ),
    ("task_arithmetic", {"scaling_factor": {"a": 1.0, "c": 1.0}}, {}, "unknown task 'c'.* Known: a, b"),
    ("task_arithmetic", {"scaling_factor": {"a": 1.0}}, {}, "scaling_factor: no value for task 'b'"),
    ("task_arithmetic", {"scaling_factor": float("nan")}, {}, "scaling_factor must be finite, got nan"),
    ("task_arithmetic", {}, {"hessians": {}}, "unknown input 'hessians'. Known: none"),
    ("average", {"weights": {"a": 1.0, "b": -1.0}}, {}, "must not sum to 0"),
    ("fisher", {}, {}, "missing input 'hessians'"),
    ("fisher", {}, {"hessians": "folder"}, "hessians must be a mapping from task to folder, got 'folder'"),
    ("fisher", {}, {"hessians": {"a": "x"}}, "hessians: no value for task 'b'"),
    ("fisher", {}, {"hessians": {"a": "x", "b": "x", "c": "x"}}, "hessians: unknown task 'c'"),
    (
        "fisher",
        {},
        {"hessians": {"a": "x", "b": {"hessian": "x", "scal": 1.0}}},
        "unknown key 'scal'. Did you mean",
    ),
    ("fisher", {}, {"hessians": {"a": "x", "b": {"scale": 1.0}}}, "missing 'hessian'"),
    (
        "fisher",
        {},
        {"hessians": {"a": "x", "b": {"hessian": "x", "scale": 0.0}}},
        "scale must be a finite float > 0",
    ),
    (
        "fisher",
        {},
        {"hessians": {"a": "x", "b": {"hessian": "x", "scale": 3}}},
        "scale must be a finite float > 0",
    ),
    ("fisher", {"floor": -1.0}, {"hessians": {}}, "floor must be finite and >= 0, got -1.0"),
    ("fisher", {"weights": {"a": 0.0, "b": 0.0}}, {"hessians": {}}, "weights must not all be 0"),
    (
        "fisher",
        {"weights": {"a": -1.0, "b": 2.0}},
        {"hessians": {}},
        "weights must be finite and >= 0, got -1.0",
    ),
    (
        "fisher",
        {"normalize": "models"},
        {"hessians": {}},
        "normalize must be one of 'none', 'tensor', 'model'",
    ),
    (
        "gradient_matching",
        {"delta_0": 0.0},
        {},
        "delta_0 must be > 0, got 0.0. With 0, .* pass a small number",
    ),
    ("gradient_matching", {"delta_0": -1.0}, {}, "delta_0 must be finite and >= 0, got -1.0"),
    ("gradient_matching", {"delta_0": float("inf")}, {}, "delta_0 must be finite"),
    ("gradient_matching", {"kappa": 0.0}, {}, "kappa must be > 0 and <= 1, got 0.0"),
    ("gradient_matching", {}, {"hessians": {"a": "x", "b": "x"}}, "missing input 'base_hessian'"),
    ("gradient_matchin", {}, {}, "Did you mean 'gradient_matching'"),
]


@pytest.mark.parametrize(("method", "options", "extras", "text"), BAD_CALLS)
def test_bad_calls(method: str, options: dict[str, Any], extras: dict[str, Any], text: str) -> None:
    with pytest.raises(OptionError, match=text):
        methods.check_call(method, options, extras, tasks=["a", "b"])


def test_checking_needs_no_torch() -> None:
    """Graphs are built on machines, and in milliseconds, without it."""
    script = (
        "import sys\n"
        "from merging import methods\n"
        "for name in methods.names(): methods.inputs(name)\n"
        "methods.check_call('gradient_matching', {}, {'base_hessian': 'x', 'hessians': {}})\n"
        "print(sorted({'torch', 'numpy', 'transformers'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
