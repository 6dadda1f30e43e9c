from collections.abc import Callable
from typing import Any

import pytest
import torch
from merging import methods
from torch import Tensor
from torch.testing import assert_close

MakeInputs = Callable[..., dict[str, Any]]
WholeModel = Callable[..., Any]
Run = Callable[..., Tensor]


def test_weighted_mean(make_inputs: MakeInputs, run: Run) -> None:
    inputs = make_inputs("fisher")
    a, b, c = inputs["models"].values()
    f, g, h = inputs["hessians"].values()
    merged = run("fisher", inputs, floor=0.0, weights={"a": 1.0, "b": 2.0, "c": 0.5})
    assert_close(merged, (f * a + 2 * g * b + 0.5 * h * c) / (f + 2 * g + 0.5 * h))


def test_relative_floor(make_inputs: MakeInputs, run: Run) -> None:
    inputs = make_inputs("fisher", tasks=("a", "b"))
    (a, b), (f, g) = inputs["models"].values(), inputs["hessians"].values()
    f, g = f + 0.1 * f.mean(), g + 0.1 * g.mean()
    assert_close(run("fisher", inputs, floor=0.1), (f * a + g * b) / (f + g))


def test_absolute_floor(make_inputs: MakeInputs, run: Run) -> None:
    inputs = make_inputs("fisher", tasks=("a", "b"))
    (a, b), (f, g) = inputs["models"].values(), inputs["hessians"].values()
    f, g = f.clamp(min=0.5), g.clamp(min=0.5)
    assert_close(run("fisher", inputs, floor=0.5, floor_kind="absolute"), (f * a + g * b) / (f + g))


def test_added_floor_and_norm_of_the_tensor(make_inputs: MakeInputs, run: Run) -> None:
    inputs = make_inputs("fisher", tasks=("a", "b"))
    (a, b), (f, g) = inputs["models"].values(), inputs["hessians"].values()
    f, g = (f + 0.5) / (f.norm() + 0.5), (g + 0.5) / (g.norm() + 0.5)
    merged = run("fisher", inputs, floor=0.5, floor_kind="added", normalize="tensor")
    assert_close(merged, (f * a + g * b) / (f + g))


def test_norm_is_of_the_whole_model(make_inputs: MakeInputs, whole_model: WholeModel) -> None:
    module = methods.load("fisher")
    parameters = [make_inputs("fisher", tasks=("a", "b"), seed=seed) for seed in range(3)]
    options = module.Options(normalize="model", floor=0.0)
    summary = module.summarize(whole_model(parameters), options)
    norms = {
        task: torch.cat([its["hessians"][task].reshape(-1) for its in parameters]).norm()
        for task in ("a", "b")
    }
    assert summary.norms == pytest.approx({task: float(norm) for task, norm in norms.items()})
    (a, b), (f, g) = parameters[1]["models"].values(), parameters[1]["hessians"].values()
    f, g = f / norms["a"], g / norms["b"]
    merged = module.merge(**parameters[1], options=options, summary=summary)
    assert_close(merged, (f * a + g * b) / (f + g))


@pytest.mark.parametrize("normalize", ["none", "tensor"])
def test_nothing_is_read_for_numbers_that_are_not_needed(normalize: str, whole_model: WholeModel) -> None:
    module = methods.load("fisher")

    options = module.Options(normalize=normalize, floor_kind="absolute")
    assert module.summarize(whole_model([{}]), options) == module.Summary(means=None, norms=None)


def test_relative_floor_is_of_the_whole_model(make_inputs: MakeInputs, whole_model: WholeModel) -> None:
    module = methods.load("fisher")
    parameters = [make_inputs("fisher", shape=(size,), tasks=("a", "b"), seed=size) for size in (3, 40)]
    options = module.Options(floor=0.5)
    summary = module.summarize(whole_model(parameters), options)
    means = [torch.cat([its["hessians"][task] for its in parameters]).mean() for task in ("a", "b")]
    (a, b), (f, g) = parameters[0]["models"].values(), parameters[0]["hessians"].values()
    f, g = f + 0.5 * means[0], g + 0.5 * means[1]
    merged = module.merge(**parameters[0], options=options, summary=summary)
    assert_close(merged, (f * a + g * b) / (f + g))


def test_equal_fishers_are_the_average(make_inputs: MakeInputs, run: Run) -> None:
    inputs = make_inputs("fisher")
    inputs["hessians"] = dict.fromkeys(inputs["hessians"], inputs["hessians"]["a"])
    assert_close(run("fisher", inputs), run("average", {"models": inputs["models"]}))


@pytest.mark.parametrize("floor", [0.0, 1e-6])
@pytest.mark.parametrize("normalize", ["none", "tensor", "model"])
@pytest.mark.parametrize("kind", ["relative", "absolute", "added"])
def test_zero_everywhere_is_the_weighted_average(
    make_inputs: MakeInputs, run: Run, floor: float, normalize: str, kind: str
) -> None:
    inputs = make_inputs("fisher")
    for tensor in inputs["hessians"].values():
        tensor.zero_()
    weights = {"a": 1.0, "b": 2.0, "c": 3.0}
    merged = run("fisher", inputs, weights=weights, floor=floor, normalize=normalize, floor_kind=kind)
    assert_close(merged, run("average", {"models": inputs["models"]}, weights=weights))


def test_a_floor_for_the_target_only_makes_it_win_where_nobody_knows(
    make_inputs: MakeInputs, run: Run
) -> None:
    inputs = make_inputs("fisher", tasks=("a", "b"))
    for tensor in inputs["hessians"].values():
        tensor[0] = 0
    merged = run("fisher", inputs, floor={"a": 1e-6, "b": 0.0}, floor_kind="absolute")
    assert torch.equal(merged[0], inputs["models"]["a"][0])


def test_a_weight_of_zero_leaves_a_task_out(make_inputs: MakeInputs, run: Run) -> None:
    inputs = make_inputs("fisher", tasks=("a", "b"))
    merged = run("fisher", inputs, weights={"a": 0.0, "b": 1.0}, floor=0.1)
    assert_close(merged, inputs["models"]["b"])
