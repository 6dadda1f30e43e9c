from collections.abc import Callable
from typing import Any

import pytest
import torch
from merging.errors import OptionError
from merging.merge.streaming import merge_tensors
from merging.methods import wudi
from torch import Tensor
from torch.testing import assert_close

MakeInputs = Callable[..., dict[str, Any]]
Run = Callable[..., Tensor]


def loss(merged: Tensor, vectors: list[Tensor]) -> Tensor:
    terms = [((merged - tau) @ tau.T).square().sum() / tau.square().sum() for tau in vectors]
    return torch.stack(terms).sum()


def test_adam_on_the_loss(make_inputs: MakeInputs, run: Run) -> None:
    """By autograd on the loss itself."""
    inputs = make_inputs("wudi", shape=(4, 7))
    vectors = [model - inputs["base"] for model in inputs["models"].values()]
    merged = torch.stack(vectors).sum(0).requires_grad_()
    adam = torch.optim.Adam([merged], lr=0.01)
    for _ in range(25):
        adam.zero_grad()
        loss(merged, vectors).backward()
        adam.step()
    ours = run("wudi", inputs, learning_rate=0.01, iterations=25, scaling_factor=0.5)
    assert_close(ours, inputs["base"] + 0.5 * merged.detach())


def test_the_loss_falls_and_its_gradient_is_told() -> None:
    """To zero: two tasks of two outputs each leave five inputs room for both."""
    vectors = list(torch.randn(2, 2, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64))
    options = wudi.Options(learning_rate=0.01, iterations=2000)
    merged, reduction = wudi.descend(vectors, options, torch.float64)
    assert loss(merged, vectors) < 1e-3 * loss(vectors[0] + vectors[1], vectors)
    assert reduction < 0.03


def test_no_steps_are_task_arithmetic(make_inputs: MakeInputs, run: Run) -> None:
    inputs = make_inputs("wudi")
    assert_close(run("wudi", inputs, iterations=0), run("task_arithmetic", inputs))


def test_vectors_are_averaged(make_inputs: MakeInputs, run: Run) -> None:
    inputs = make_inputs("wudi", shape=(5,))
    a, b, c = inputs["models"].values()
    assert_close(run("wudi", inputs), (a + b + c) / 3)


def test_a_task_that_has_learnt_nothing(make_inputs: MakeInputs, run: Run) -> None:
    inputs = make_inputs("wudi")
    others = {**inputs, "models": {task: inputs["models"][task] for task in "ac"}}
    inputs["models"]["b"] = inputs["base"]
    assert_close(run("wudi", inputs), run("wudi", others))


def test_a_transposed_parameter_is_turned(make_inputs: MakeInputs) -> None:
    inputs = make_inputs("wudi", shape=(4, 7))

    def run(turned: bool) -> Tensor:
        def named(tensor: Tensor) -> dict[str, Tensor]:
            return {"w": tensor.T.contiguous() if turned else tensor}

        merged = merge_tensors(
            method="wudi",
            options={"learning_rate": 0.1, "iterations": 5},
            base=named(inputs["base"]),
            models={task: named(model) for task, model in inputs["models"].items()},
            extras={},
            transposed=["w"] if turned else [],
        )["w"]
        return merged.T if turned else merged

    assert_close(run(turned=True), run(turned=False))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"learning_rate": 0.0}, r"wudi: learning_rate must be > 0, got 0\.0"),
        ({"iterations": -1}, "wudi: iterations must be >= 0, got -1"),
    ],
)
def test_options_out_of_range(options: dict[str, Any], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        wudi.Options(**options)


def test_an_embedding_needs_no_square_of_its_rows() -> None:
    """A vocabulary squared would be 288 GB here; in float64 the two ways to multiply are one."""
    torch.manual_seed(0)
    tall = [torch.randn(190_000, 2) for _ in range(2)]
    options = wudi.Options(iterations=0)
    merged, _ = wudi.descend(tall, options, torch.float32)
    assert merged.shape == (190_000, 2)
    options = wudi.Options(iterations=5, learning_rate=1e-2)
    vectors = [torch.randn(5, 3) for _ in range(3)]  # with rows of zeros, there are more inputs than outputs
    few = [torch.cat([its, torch.zeros(5, 9)], 1) for its in vectors]
    found, expected = (wudi.descend(its, options, torch.float64)[0] for its in (vectors, few))
    torch.testing.assert_close(found, expected[:, :3])
