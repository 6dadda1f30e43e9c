"""What dare_ties adds to dare_linear: agreement on signs."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

NEUTRAL = {"density": 1.0}
EXCEPTIONS = {
    "test_names_of_tasks_do_not_matter": "what is drawn for a task depends on its name",
    "test_tiny_and_huge_curvature": "takes no curvature; what is kept is multiplied by 10",
}

MakeInputs = Callable[..., dict[str, Any]]
Run = Callable[..., Tensor]


@pytest.mark.parametrize("normalize", [False, True])
def test_density_1_is_ties_without_trimming(normalize: bool, make_inputs: MakeInputs, run: Run) -> None:
    inputs = make_inputs("dare_ties")
    weights = {"a": 1.0, "b": 0.25, "c": -0.5}
    merged = run("dare_ties", inputs, density=1.0, weights=weights, normalize=normalize)
    ties = {"flavour": "per_tensor", "merge_function": "mean" if normalize else "sum"}
    assert_close(merged, run("ties", inputs, density=1.0, weights=weights, **ties))


@pytest.mark.parametrize("rescale", ["inverse_keep", "l1", "none"])
@pytest.mark.parametrize("strategy", ["random", "magnitude"])
def test_same_elements_as_dare_linear(strategy: str, rescale: str, make_inputs: MakeInputs, run: Run) -> None:
    """The task vectors of single tasks, then the sum over those with the elected sign."""
    inputs = make_inputs("dare_ties", shape=(20, 30))
    base = inputs["base"]
    options = {"density": 0.4, "rescale": rescale, "strategy": strategy}
    vectors = torch.stack(
        [
            run("dare_linear", {"base": inputs["base"], "models": {task: model}}, **options) - base
            for task, model in inputs["models"].items()
        ]
    )
    vectors[vectors.abs() < 1e-12] = 0
    sign = torch.where(vectors.sum(0) >= 0, 1.0, -1.0)
    expected = base + 0.6 * (vectors * (vectors.sign() == sign)).sum(0)
    assert_close(run("dare_ties", inputs, scaling_factor=0.6, **options), expected)
