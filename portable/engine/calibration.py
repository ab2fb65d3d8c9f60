"""Times steps of a model that has nothing to do yet, so that the first choices are not guesses."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from portable.engine.backend import Backend
from portable.engine.costs import StepCosts
from portable.engine.sequence import SamplingParams, Sequence, Slice

# Those that tell most come first: what is not measured is guessed from its neighbours. The very
# first step reads the weights from the disk, and the median of three leaves it out.
_ROWS = (1, 2, 4, 8, 16, 3, 6, 12) * 3
_SECONDS = 1.0


@dataclass(slots=True)
class Calibration:
    """Steps of different sizes on an empty model, for a second at most and none over `bound`."""

    backend: Backend
    costs: StepCosts
    clock: Callable[[], float]
    bound: float
    _next: int = 0
    _spent: float = 0.0

    def step(self) -> bool:
        """Time one step; False when that is enough."""
        while self._next < len(_ROWS) and self._spent < _SECONDS:
            rows = _ROWS[self._next]
            self._next += 1
            if self.costs.seconds(rows) <= self.bound and rows < self.backend.cells:
                self._time(rows)
                return True
        return False

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
