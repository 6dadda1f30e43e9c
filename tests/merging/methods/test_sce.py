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


def reference(base: Tensor, models: dict[str, Tensor], select_topk: float) -> Tensor:
    deltas = torch.stack(list(models.values())) - base
    variance = deltas.var(0, correction=0)
    kept = int((variance != 0).sum() * select_topk)
    mask = torch.zeros(variance.numel(), dtype=base.dtype)
    mask[variance.flatten().argsort(descending=True, stable=True)[:kept]] = 1
    deltas = deltas * mask.reshape(variance.shape)
    weights = deltas.square().flatten(1).mean(1)
    weights = (weights / weights.sum().clamp(min=1e-30)).reshape(-1, *[1] * base.dim())
    sign = torch.where(deltas.sum(0) >= 0, 1, -1)
    agrees = (deltas.sign() == sign) * weights
    return base + (agrees * deltas).sum(0) / agrees.sum(0).clamp(min=1e-30)


@pytest.mark.parametrize("select_topk", [1.0, 0.5, 0.1, 0.0])
@pytest.mark.parametrize("parity", [True, False])
def test_formula(select_topk: float, parity: bool, make_inputs: MakeInputs, run: Run) -> None:
    inputs = make_inputs("sce")
    merged = run("sce", inputs, select_topk=select_topk, parity=parity)
    assert_close(merged, reference(**inputs, select_topk=select_topk))


def test_selection_in_pieces(make_inputs: MakeInputs, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    inputs = make_inputs("sce", shape=(11, 5))
    whole = run("sce", inputs, select_topk=0.3)
    monkeypatch.setattr("merging.merge.tensor_merge.PIECE", 7)
    assert_close(run("sce", inputs, select_topk=0.3), whole)


def test_of_equal_variances_the_first_are_kept(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("merging.merge.tensor_merge.PIECE", 2)
    base = torch.zeros(6)
    models = {
        "a": torch.tensor([0.0, 1.0, 3.0, 1.0, 1.0, 0.0]),
        "b": torch.tensor([0.0, 2.0, 6.0, 2.0, 2.0, 1.0]),
    }  # variances 0, 1/4, 9/4, 1/4, 1/4, 1/4
    merged = run("sce", {"base": base, "models": models}, select_topk=0.6)
    assert merged.bool().tolist() == [False, True, True, True, False, False]


def test_models_that_agree_are_averaged_by_their_squares(run: Run) -> None:
    models = {"a": torch.tensor([1.0, 1.0]), "b": torch.tensor([2.0, 2.0])}
    merged = run("sce", {"base": torch.zeros(2), "models": models})
    assert_close(merged, torch.full((2,), 0.2 * 1 + 0.8 * 2))


def test_the_minority_is_erased(run: Run) -> None:
    models = {"a": torch.tensor([3.0, 1.0]), "b": torch.tensor([-1.0, -1.0]), "c": torch.tensor([-1.0, 0.0])}
    merged = run("sce", {"base": torch.zeros(2), "models": models})
    assert_close(merged, torch.tensor([3.0, 1.0]))  # a sum of 0 counts as positive


def test_small_task_vectors_are_no_special_case(make_inputs: MakeInputs, run: Run) -> None:
    """Scaling them scales the result; mergekit's floors make small tasks alike."""
    inputs = make_inputs("sce")
    base = torch.zeros_like(inputs["base"])
    small = {"base": base, "models": {task: 1e-5 * model for task, model in inputs["models"].items()}}
    merged = run("sce", small)
    assert_close(merged * 1e5, run("sce", {**inputs, "base": base}))
    assert (run("sce", small, parity=True) - merged).norm() > 1e-3 * merged.norm()


def test_bad_options() -> None:
    with pytest.raises(OptionError, match=r"sce: select_topk must be in 0..1, got 50.0"):
        methods.load("sce").Options(select_topk=50.0)
