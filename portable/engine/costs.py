"""What a step costs by its number of rows; pure: told what steps took.

Rows of a batch are computed together, in groups that depend on the kernels: on one CPU two rows
cost as much as two steps, and sixteen less than fifteen. So it is measured, not assumed.
"""

from __future__ import annotations

from bisect import bisect
from collections import deque
from statistics import median

# The median of so many: another program's turn on the CPU is not the kernels' cost.
_REMEMBERED = 5
# What another row adds before any step had more than one, in steps of one row.
_ASSUMED = 0.45
# Larger steps cost what their rows cost.
_MOST = 64


class StepCosts:
    """Seconds of a step by its rows, as measured, and between these as they lie on a line."""

    def __init__(self) -> None:
        self._samples: dict[int, deque[float]] = {}
        self._rows: list[int] = []
        self._seconds: dict[int, float] = {}

    def learn(self, rows: int, seconds: float) -> None:
        if not 0 < rows <= _MOST:
            return
        samples = self._samples.setdefault(rows, deque(maxlen=_REMEMBERED))
        samples.append(seconds)
        self._seconds[rows] = median(samples)
        if len(samples) == 1:
            self._rows = sorted(self._samples)

    def seconds(self, rows: int) -> float:
        """0 while nothing is known."""
        known = self._seconds.get(rows)
        if known is not None or not self._rows:
            return known or 0.0
        at = bisect(self._rows, rows)
        if at == 0:  # fewer rows than ever: no dearer
            return self._seconds[self._rows[0]]
        low = self._rows[at - 1]
        if at < len(self._rows):
            high = self._rows[at]
            share = (rows - low) / (high - low)
            return (1 - share) * self._seconds[low] + share * self._seconds[high]
        first = self._rows[0]
        more = _ASSUMED * self._seconds[first]
        if low > first:  # two rows may cost as much as two steps: that says little of eight
            more = min(more, max(0.0, self._seconds[low] - self._seconds[first]) / (low - first))
        return self._seconds[low] + more * (rows - low)
