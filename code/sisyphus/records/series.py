"""What a task used over time: few points, however long it runs, so that they fit into its usage file."""

from __future__ import annotations

MOST_POINTS = 120

Point = tuple[float, float, float]
"""Seconds since the task began, resident memory in GB, cpu in percent of one core."""


class Series:
    """Points that get sparser while a task goes on: when there are too many, every other one is left out."""

    def __init__(self) -> None:
        self._points: list[Point] = []
        self._gap_s = 0.0
        """Least time between two points that are kept."""

    def add(self, seconds: float, memory_gb: float, cpu_percent: float) -> None:
        """Note what is used now.

        Args:
            seconds: since the task began; not less than before.
            memory_gb: resident memory.
            cpu_percent: 100 is one core.
        """
        point = (round(seconds, 1), round(memory_gb, 3), round(cpu_percent, 1))
        if self._points and seconds - self._points[-1][0] < self._gap_s:
            return
        self._points.append(point)
        if len(self._points) > MOST_POINTS:
            self._gap_s = 2 * max(self._gap_s, (seconds - self._points[0][0]) / len(self._points))
            self._points = self._points[::2]

    def points(self) -> list[Point]:
        """Return the points, oldest first."""
        return list(self._points)
