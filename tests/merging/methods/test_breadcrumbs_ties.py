"""What breadcrumbs_ties adds to breadcrumbs: agreement on signs."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

NEUTRAL = {"density": 1.0}

MakeInputs = Callable[..., dict[str, Any]]
Run = Callable[..., Tensor]


@pytest.mark.parametrize("density", [0.3, 1.0])
@pytest.mark.parametrize("rescale", ["none", "l1"])
@pytest.mark.parametrize("normalize", [False, True])
def test_no_outliers_is_ties(
    normalize: bool, rescale: str, density: float, make_inputs: MakeInputs, run: Run
) -> None:
    inputs = make_inputs("breadcrumbs_ties")
    options = {"density": density, "rescale": rescale, "weights": {"a": 1.0, "b": 0.25, "c": -0.5}}
    merged = run("breadcrumbs_ties", inputs, gamma=0.0, normalize=normalize, **options)
    ties = {"flavour": "per_tensor", "merge_function": "mean" if normalize else "sum"}
    assert_close(merged, run("ties", inputs, **options, **ties))


def test_same_elements_as_breadcrumbs(make_inputs: MakeInputs, run: Run) -> None:
    inputs = make_inputs("breadcrumbs_ties", shape=(20, 30))
    base = inputs["base"]
    options = {"density": 0.5, "gamma": 0.2}
    vectors = torch.stack(
        [
            run("breadcrumbs", {"base": base, "models": {task: model}}, **options) - base
            for task, model in inputs["models"].items()
        ]
    )
    vectors[vectors.abs() < 1e-12] = 0
    sign = torch.where(vectors.sum(0) >= 0, 1.0, -1.0)
    expected = base + (vectors * (vectors.sign() == sign)).sum(0)
    assert_close(run("breadcrumbs_ties", inputs, **options), expected)
