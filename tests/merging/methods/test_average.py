from collections.abc import Callable
from typing import Any

from torch import Tensor
from torch.testing import assert_close

MakeInputs = Callable[..., dict[str, Any]]
Run = Callable[..., Tensor]


def test_mean(make_inputs: MakeInputs, run: Run) -> None:
    inputs = make_inputs("average")
    a, b, c = inputs["models"].values()
    assert_close(run("average", inputs), (a + b + c) / 3)


def test_weights_are_normalized(make_inputs: MakeInputs, run: Run) -> None:
    inputs = make_inputs("average")
    a, b, c = inputs["models"].values()
    merged = run("average", inputs, weights={"a": 1.0, "b": 0.5, "c": 2.5})
    assert_close(merged, (1.0 * a + 0.5 * b + 2.5 * c) / 4)


def test_plain_weighted_sum(make_inputs: MakeInputs, run: Run) -> None:
    inputs = make_inputs("average")
    a, b, _ = inputs["models"].values()
    merged = run("average", inputs, weights={"a": 1.0, "b": -1.0, "c": 0.0}, normalize=False)
    assert_close(merged, a - b)


def test_without_weights_it_is_the_mean_even_unnormalized(make_inputs: MakeInputs, run: Run) -> None:
    inputs = make_inputs("average")
    assert_close(run("average", inputs, normalize=False), run("average", inputs))
