"""Times steps of a model that has nothing to do yet, so that the first choices are not guesses."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from portable.engine.backend import Backend
from portable.engine.costs import StepCosts
from portable.engine.sequence import SamplingParams, Sequence, Slice

# Those that tell most come first: what is not measured is guessed from its neighbours. The very
# first step reads the weights from the disk, and the median of three leaves it out.
SIZES = (1, 2, 4, 8, 16, 3, 6, 12) * 3
# Tokens one by one, where no choice depends on more: they tell how fast the model answers here.
SINGLE = (1,) * 8
_SECONDS = 1.0
_LEAST = 3


@dataclass(slots=True)
class Calibration:
    """Steps of these `sizes` on an empty model, for a second or so and none over `bound`; but the
    first three if they are of one token, for the very first may read the weights from the disk.

    Nothing is left in the cache.
    """

    backend: Backend
    costs: StepCosts
    clock: Callable[[], float]
    bound: float
    sizes: tuple[int, ...] = SIZES
    _next: int = 0
    _spent: float = 0.0

    def step(self) -> bool:
        """Time one step; False when that is enough."""
        while self._next < len(self.sizes):
            rows = self.sizes[self._next]
            self._next += 1
            if self._is_worth(rows):
                self._time(rows)
                return True
        return False

    def _is_worth(self, rows: int) -> bool:
        if rows == 1 and self._next <= _LEAST:
            return True
        in_time = self._spent < _SECONDS and self.costs.seconds(rows) <= self.bound
        return in_time and rows < self.backend.cells

    def _time(self, rows: int) -> None:
        sequence = Sequence("", [0], SamplingParams(), slot=0)
        started = self.clock()
        try:
            self.backend.decode([Slice(sequence, 0, 1, (0,) * (rows - 1))])
            seconds = self.clock() - started
        finally:
            self.backend.keep(0, 0)
        self.costs.learn(rows, seconds)
        self._spent += seconds
