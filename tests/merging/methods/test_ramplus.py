from collections.abc import Callable
from typing import Any

import pytest
import torch
from merging import methods
from merging.errors import OptionError
from torch import Tensor
from torch.testing import assert_close

MakeInputs = Callable[..., dict[str, Any]]
Run = Callable[..., Tensor]


def inputs() -> dict[str, Any]:
    """Of a, 1 of 3 changes is shared; of b, 1 of 2."""
    models = {"a": torch.tensor([1.0, 2.0, 4.0, 0.0]), "b": torch.tensor([0.0, 0.0, 2.0, 1.0])}
    return {"base": torch.zeros(4), "models": models}


def test_unique_changes_grow_with_the_share_of_shared_ones(run: Run) -> None:
    merged = run("ramplus", inputs(), r=0.5, alpha=10.0)
    assert_close(merged, torch.tensor([1.25, 2.5, 3.0, 1.5]))


def test_growth_is_bounded(run: Run) -> None:
    merged = run("ramplus", inputs(), r=0.5, alpha=0.6)
    assert_close(merged, torch.tensor([1.25, 2.5, 3.0, 1.3]))


def test_counts_are_of_the_whole_parameter(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("merging.merge.tensor_merge.PIECE", 1)
    assert_close(run("ramplus", inputs(), r=0.5, alpha=10.0), torch.tensor([1.25, 2.5, 3.0, 1.5]))


@pytest.mark.parametrize("options", [{"r": 0.0}, {"alpha": 0.0}])
def test_no_growth_is_ram(options: dict[str, float], run: Run) -> None:
    assert torch.equal(run("ramplus", inputs(), **options), run("ram", inputs()))


def test_nothing_unique(make_inputs: MakeInputs, run: Run) -> None:
    """Every element is changed by everybody: the average."""
    dense = make_inputs("ramplus")
    assert_close(run("ramplus", dense), run("average", {"models": dense["models"]}))


def test_bad_options() -> None:
    for key in ("epsilon", "r", "alpha"):
        with pytest.raises(OptionError, match=f"ramplus: {key} must be finite and >= 0, got -1.0"):
            methods.load("ramplus").Options(**{key: -1.0})
