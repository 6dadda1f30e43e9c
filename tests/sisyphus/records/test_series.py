"""Points of what a task used stay few, and span the whole time."""

import itertools

from sisyphus.records.series import MOST_POINTS, Series


def test_short_tasks_keep_every_point():
    series = Series()
    for second in range(10):
        series.add(second, 0.5, 99.96)
    assert series.points() == [(second, 0.5, 100.0) for second in range(10)]


def test_long_tasks_keep_few_points_over_all_their_time():
    series = Series()
    for step in range(100_000):
        series.add(5.0 * step, step / 1000, 100)
    points = series.points()
    assert MOST_POINTS / 4 < len(points) <= MOST_POINTS
    assert points[0][0] == 0
    assert points[-1][0] > 0.95 * 5.0 * 100_000
    gaps = [later[0] - earlier[0] for earlier, later in itertools.pairwise(points)]
    assert max(gaps) < 4 * min(gaps)
