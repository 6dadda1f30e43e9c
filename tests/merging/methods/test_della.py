"""What della adds to della_linear: agreement on signs, and the mean."""

from collections.abc import Callable
from typing import Any

import pytest
from torch import Tensor
from torch.testing import assert_close

NEUTRAL = {"density": 1.0, "epsilon": 0.0}
EXCEPTIONS = {"test_names_of_tasks_do_not_matter": "what is drawn for a task depends on its name"}

MakeInputs = Callable[..., dict[str, Any]]
Run = Callable[..., Tensor]


@pytest.mark.parametrize("rescale", ["inverse_keep", "l1", "none"])
@pytest.mark.parametrize("normalize", [False, True])
def test_no_epsilon_is_dare_ties(normalize: bool, rescale: str, make_inputs: MakeInputs, run: Run) -> None:
    inputs = make_inputs("della", shape=(12, 9))
    options = {"density": 0.4, "rescale": rescale, "seed": 3, "weights": {"a": 1.0, "b": 0.25, "c": -0.5}}
    merged = run("della", inputs, epsilon=0.0, normalize=normalize, **options)
    assert_close(merged, run("dare_ties", inputs, normalize=normalize, **options))


def test_one_task_is_della_linear(make_inputs: MakeInputs, run: Run) -> None:
    inputs = make_inputs("della", tasks=("a",), shape=(12, 9))
    assert_close(run("della", inputs, seed=5), run("della_linear", inputs, seed=5))


def test_the_mean_is_the_default(make_inputs: MakeInputs, run: Run) -> None:
    inputs = make_inputs("della")
    assert_close(run("della", inputs), run("della", inputs, normalize=True))
