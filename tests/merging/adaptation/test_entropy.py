"""Entropies in closed form, and when a collapse is noticed."""

import math

import pytest
import torch
from merging.adaptation.entropy import CollapseMonitor, marginal, mean_entropy


def test_closed_forms() -> None:
    scores = torch.tensor([[0.0, 0.0, 0.0, 0.0], [math.log(3), 0.0, -200.0, -200.0], [500.0, 0.0, 0.0, 0.0]])
    expected = [math.log(4), -(0.75 * math.log(0.75) + 0.25 * math.log(0.25)), 0.0]
    for row, value in zip(scores, expected, strict=True):
        assert float(mean_entropy(row[None])) == pytest.approx(value, abs=1e-6)
    assert float(mean_entropy(scores)) == pytest.approx(sum(expected) / 3)


def test_masked_positions_do_not_count() -> None:
    scores = torch.randn(2, 3, 5, generator=torch.Generator().manual_seed(0), requires_grad=True)
    mask = torch.tensor([[True, False, True], [False, False, True]])
    torch.testing.assert_close(mean_entropy(scores, mask), mean_entropy(scores[mask]))
    torch.testing.assert_close(marginal(scores, mask), scores.detach()[mask].softmax(-1).mean(0))
    mean_entropy(scores, torch.zeros_like(mask)).backward()
    assert scores.grad is not None and scores.grad.isfinite().all()


def test_certain_predictions_of_many_classes_are_no_collapse() -> None:
    monitor = CollapseMonitor(window=2, share=0.5)
    one, other = torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0])
    assert [monitor.add({"t": its}) for its in (one, other, other, one)] == [None] * 4
    assert monitor.start == monitor.last == {"t": pytest.approx(math.log(2))}


def test_one_class_for_all_inputs_is_one() -> None:
    monitor = CollapseMonitor(window=2, share=0.5)
    even, one = torch.tensor([0.5, 0.5]), torch.tensor([0.99, 0.01])
    told = [monitor.add({"bad": its, "good": even}) for its in (even, even, even, one, one, one)]
    assert told == [None] * 5 + ["bad"]
    assert monitor.last["bad"] < 0.5 * monitor.start["bad"]
    assert monitor.is_window_end
