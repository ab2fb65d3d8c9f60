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
# The rest lets the ratio of two sizes be learned when they are measured in turn.
_FOLLOWED = 0.8
# What another row adds before any step had more than one, in steps of one row.
_ASSUMED = 0.45
# Larger steps cost what their rows cost.
_MOST = 64


class StepCosts:
    """Seconds of a step by its rows, as measured, and between these as they lie on a line.

    What makes a step of one size slower, such as other programs or a longer context, makes the
    others slower too: they follow, most of the way, until they are measured again.
    """

    def __init__(self) -> None:
        self._samples: dict[int, deque[float]] = {}  # in units of `_pace`, as are `_medians`
        self._medians: dict[int, float] = {}
        self._rows: list[int] = []
        self._pace = 1.0

    def learn(self, rows: int, seconds: float) -> None:
        if not 0 < rows <= _MOST:
            return
        before = self._medians.get(rows)
        samples = self._samples.setdefault(rows, deque(maxlen=_REMEMBERED))
        samples.append(seconds / self._pace)
        self._medians[rows] = median(samples)
        if not before:
            self._rows = sorted(self._samples)
        elif change := (self._medians[rows] / before) ** _FOLLOWED:
            self._pace *= change
            self._samples[rows] = deque((s / change for s in samples), _REMEMBERED)
            self._medians[rows] /= change

    def seconds(self, rows: int) -> float:
        """0 while nothing is known."""
        return self._pace * self._on_the_line(rows)

    def _on_the_line(self, rows: int) -> float:
        known = self._medians.get(rows)
        if known is not None or not self._rows:
            return known or 0.0
        at = bisect(self._rows, rows)
        if at == 0:  # fewer rows than ever: no dearer
            return self._medians[self._rows[0]]
        low = self._rows[at - 1]
        if at < len(self._rows):
            high = self._rows[at]
            share = (rows - low) / (high - low)
            return (1 - share) * self._medians[low] + share * self._medians[high]
        first = self._rows[0]
        more = _ASSUMED * self._medians[first]
        if low > first:  # two rows may cost as much as two steps: that says little of eight
            more = min(more, max(0.0, self._medians[low] - self._medians[first]) / (low - first))
        return self._medians[low] + more * (rows - low)
