import numpy as np
import pytest
from merging.tables import statistics
from merging.tables.statistics import estimate, resampled_means


def test_the_bootstrap_has_the_deviation_of_a_binomial() -> None:
    scores = np.zeros((1, 400))
    scores[0, :300] = 1
    means = resampled_means(scores, num_samples=20_000, generator=np.random.default_rng(0))
    assert means.mean() == pytest.approx(0.75, abs=0.001)
    assert means.std() == pytest.approx(np.sqrt(0.75 * 0.25 / 400), rel=0.02)


def test_lines_are_resampled_together() -> None:
    """Paired: the difference of two lines varies as little as the examples in which they differ."""
    first = np.tile([1.0, 0.0, 1.0, 1.0], 50)
    second = first.copy()
    second[:10] = 1 - second[:10]
    scores = np.stack([first, second, first])
    means = resampled_means(scores, num_samples=5000, generator=np.random.default_rng(1))
    assert np.array_equal(means[0], means[2])
    difference = second - first
    assert (means[1] - means[0]).std() == pytest.approx(difference.std() / np.sqrt(200), rel=0.05)


def test_it_is_the_plain_bootstrap() -> None:
    """Against indices drawn one by one, for lines that are averages over seeds."""
    generator = np.random.default_rng(2)
    scores = generator.integers(0, 4, (3, 60)) / 3
    indices = generator.integers(0, 60, (20_000, 60))
    plain = scores[:, indices].mean(axis=2)
    ours = resampled_means(scores, num_samples=20_000, generator=generator)
    assert ours.shape == plain.shape
    np.testing.assert_allclose(ours.mean(axis=1), plain.mean(axis=1), atol=0.002)
    np.testing.assert_allclose(np.cov(ours), np.cov(plain), atol=1e-4)


def test_blocks_cover_all_samples(monkeypatch: pytest.MonkeyPatch) -> None:
    scores = np.eye(7)
    monkeypatch.setattr(statistics, "MAX_BLOCK", 70)
    means = resampled_means(scores, num_samples=105, generator=np.random.default_rng(3))
    np.testing.assert_allclose(means.sum(axis=0), np.ones(105))


def test_estimate() -> None:
    samples = np.linspace(0, 1, 1001)
    result = estimate(0.5, samples, [0.4, 0.6])
    assert (result.value, result.low, result.high) == pytest.approx((0.5, 0.025, 0.975))
    assert result.deviation == pytest.approx(np.sqrt(0.02))
    assert estimate(0.5, samples, [0.5]).deviation is None
