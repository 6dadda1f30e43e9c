"""With which probability DELLA keeps an element, and what becomes of it; della shares it."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from merging.errors import OptionError
from merging.merge.streaming import merge_tensors
from merging.methods._della import keep_probabilities
from torch import Tensor
from torch.testing import assert_close

NEUTRAL = {"density": 1.0, "epsilon": 0.0}
EXCEPTIONS = {"test_names_of_tasks_do_not_matter": "what is drawn for a task depends on its name"}

MakeInputs = Callable[..., dict[str, Any]]
Run = Callable[..., Tensor]


def test_probabilities_rise_with_the_rank_in_a_row() -> None:
    rows = torch.tensor([[0.1, -5.0, 2.0, 0.0], [7.0, 6.0, -8.0, 9.0]])
    keep = keep_probabilities(rows, 0.45, 0.2, transposed=False)
    expected = 0.25 + 0.4 * torch.tensor([[1, 3, 2, 0], [1, 0, 2, 3]]) / 3
    assert_close(keep, expected)
    assert_close(keep_probabilities(rows.T.contiguous(), 0.45, 0.2, transposed=True), expected.T)
    assert_close(keep_probabilities(rows.reshape(2, 2, 2), 0.45, 0.2, transposed=False).flatten(1), expected)
    assert_close(keep_probabilities(rows[1], 0.45, 0.2, transposed=False), expected[1])


@pytest.mark.parametrize("transposed", [False, True])
def test_probabilities_in_float32_are_those_in_float64(transposed: bool) -> None:
    """They are sorted differently; many magnitudes are equal, and some are tiny."""
    rows = (torch.randn(40, 60, generator=torch.Generator().manual_seed(0)) * 3).round() / 3
    rows[:, ::7] *= 1e-42
    keep = keep_probabilities(rows, 0.5, 0.4, transposed=transposed)
    assert_close(keep.double(), keep_probabilities(rows.double(), 0.5, 0.4, transposed=transposed))


def test_a_row_of_one_element_and_a_scalar() -> None:
    for shape in ((), (1,), (5, 1), (0,)):
        keep = keep_probabilities(torch.ones(shape), 0.4, 0.2, transposed=False)
        assert torch.equal(keep, torch.full(shape, 0.4))


def single(seed: int = 0, shape: tuple[int, ...] = (20, 50), **options: Any) -> tuple[Tensor, Tensor]:
    """A task vector, and what a merge with the base 0 makes of it."""
    model = torch.randn(shape, generator=torch.Generator().manual_seed(9)).double()
    merged = merge_tensors(
        method="della_linear",
        options={"seed": seed, **options},
        base={"w": torch.zeros(shape, dtype=torch.float64)},
        models={"a": {"w": model}},
        extras={},
    )
    return model, merged["w"]


def test_kept_elements_are_divided_by_their_probability() -> None:
    model, merged = single(density=0.5, epsilon=0.3)
    kept = merged != 0
    keep = keep_probabilities(model, 0.5, 0.3, transposed=False)
    assert_close(merged[kept], model[kept] / keep[kept])
    assert abs(float(kept.double().mean()) - 0.5) < 0.05
    large = keep > 0.5
    assert float(kept[large].double().mean()) > 0.6 > 0.4 > float(kept[~large].double().mean())


def test_mean_over_seeds_is_the_task_vector() -> None:
    draws = [single(seed, (4, 10), density=0.5, epsilon=0.2)[1] for seed in range(300)]
    model = single(shape=(4, 10))[0]
    assert ((torch.stack(draws).mean(0) - model).abs() < 6 * model.abs() / 300**0.5).all()


def test_norm_stays_with_l1_and_nothing_is_rescaled_with_none() -> None:
    model, merged = single(rescale="l1")
    assert_close(merged.abs().sum(), model.abs().sum())
    model, merged = single(rescale="none")
    assert_close(merged[merged != 0], model[merged != 0])


def test_columns_of_what_is_stored_transposed() -> None:
    """GPT-2's Conv1D: a row is what belongs to one output."""
    generator = torch.Generator().manual_seed(0)
    model = torch.randn(30, 40, generator=generator)
    merged = merge_tensors(
        method="della_linear",
        options={"density": 0.5, "epsilon": 0.3},
        base={"w": torch.zeros(30, 40)},
        models={"a": {"w": model}},
        extras={},
        transposed=("w",),
    )["w"]
    kept = merged != 0
    keep = keep_probabilities(model.T, 0.5, 0.3, transposed=False).T
    assert_close(merged[kept], (model / keep)[kept])


def test_no_epsilon_is_dare(make_inputs: MakeInputs, run: Run) -> None:
    inputs = make_inputs("della_linear", shape=(12, 9))
    for rescale in ("inverse_keep", "l1", "none"):
        options = {"density": 0.4, "rescale": rescale, "seed": 3}
        merged = run("della_linear", inputs, epsilon=0.0, **options)
        assert_close(merged, run("dare_linear", inputs, **options))


def test_options_by_task(make_inputs: MakeInputs, run: Run) -> None:
    inputs = make_inputs("della_linear", tasks=("a", "b"))
    merged = run("della_linear", inputs, density={"a": 0.5, "b": 1.0}, epsilon={"a": 0.2, "b": 0.0})
    one = {"base": inputs["base"], "models": {"a": inputs["models"]["a"]}}
    alone = run("della_linear", one, density=0.5, epsilon=0.2)
    assert_close(merged, alone + inputs["models"]["b"] - inputs["base"])


@pytest.mark.parametrize("method", ["della", "della_linear"])
@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"density": 0.1}, "density - epsilon must be > 0"),
        ({"density": 0.9}, "density - epsilon must be > 0"),
        ({"epsilon": -0.1}, "density - epsilon must be > 0"),
        ({"density": {"a": 0.5, "b": 1.0}}, ".* got density 1.0 and epsilon 0.15"),
        ({"seed": 2**32}, "seed must be an int in"),
        ({"weights": float("nan")}, "weights must be finite"),
    ],
)
def test_bad_options(
    method: str, options: dict[str, Any], text: str, make_inputs: MakeInputs, run: Run
) -> None:
    with pytest.raises(OptionError, match=f"{method}: {text}"):
        run(method, make_inputs(method, tasks=("a", "b")), **options)
