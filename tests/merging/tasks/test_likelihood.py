"""Log-likelihoods of tokens and sequences, beside torch's own cross entropy."""

import pytest
import torch
from merging.tasks import _likelihood
from torch import Tensor
from torch.nn import functional


@pytest.fixture
def scored() -> tuple[Tensor, Tensor]:
    """Scores (3, 5, 7) and labels with ignored ones at the end, in the middle, and everywhere."""
    generator = torch.Generator().manual_seed(0)
    scores = torch.randn(3, 5, 7, generator=generator, dtype=torch.float64)
    labels = torch.randint(7, (3, 5), generator=generator)
    labels[0, 3:] = labels[1, 2] = labels[2] = -100
    return scores, labels


@pytest.mark.parametrize("chunk", [1, 14, 1 << 22])
def test_tokens_are_scored_as_cross_entropy_does(
    scored: tuple[Tensor, Tensor], chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_likelihood, "_CHUNK_ELEMENTS", chunk)
    scores, labels = scored
    expected = -functional.cross_entropy(scores.transpose(1, 2), labels, reduction="none")
    found = _likelihood.token_log_likelihoods(scores, labels)
    torch.testing.assert_close(found, expected)
    assert (found[labels == -100] == 0).all()


def test_sequences_are_sums_or_means_of_their_tokens(scored: tuple[Tensor, Tensor]) -> None:
    scores, labels = scored
    tokens = _likelihood.token_log_likelihoods(scores, labels)
    sums = _likelihood.log_likelihoods(scores, labels)
    torch.testing.assert_close(sums, tokens.sum(1))
    means = _likelihood.log_likelihoods(scores, labels, length_normalised=True)
    torch.testing.assert_close(means, sums / torch.tensor([3.0, 4.0, 1.0]))
    assert sums[2] == 0


def test_the_loss_and_its_gradient_are_those_of_cross_entropy(
    scored: tuple[Tensor, Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_likelihood, "_CHUNK_ELEMENTS", 14)
    scores, labels = scored
    gradients = []
    for loss in (
        lambda its: _likelihood.mean_loss(its, labels),
        lambda its: functional.cross_entropy(its.flatten(0, 1), labels.flatten()),
    ):
        leaf = scores.clone().requires_grad_()
        gradients.append(torch.autograd.grad(loss(leaf), leaf)[0])
    torch.testing.assert_close(*gradients)


def test_half_precision_scores_are_summed_in_float32(scored: tuple[Tensor, Tensor]) -> None:
    scores, labels = scored
    found = _likelihood.token_log_likelihoods(scores.bfloat16(), labels)
    assert found.dtype == torch.float32
    torch.testing.assert_close(
        found, _likelihood.token_log_likelihoods(scores.bfloat16().double(), labels).float()
    )


def test_a_batch_without_a_prediction_has_no_loss() -> None:
    scores = torch.zeros(2, 3, 4, requires_grad=True)
    loss = _likelihood.mean_loss(scores, torch.full((2, 3), -100))
    loss.backward()
    assert loss == 0
    assert scores.grad is not None
    assert (scores.grad == 0).all()
