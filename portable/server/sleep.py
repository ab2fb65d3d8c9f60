"""Whether the machine slept, which GPUs may not survive: time that a running program never saw."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable

# A clock that was set right by less is no sleep.
_LEAST_SECONDS = 10.0


def behind() -> float:
    """Seconds by which a clock that stops in sleep is behind one that does not."""
    if sys.platform == "linux":
        return time.clock_gettime(time.CLOCK_BOOTTIME) - time.clock_gettime(time.CLOCK_MONOTONIC)
    return time.time() - time.monotonic()


class Sleep:
    """Asked now and then."""

    def __init__(self, behind: Callable[[], float] = behind) -> None:
        self._behind = behind
        self._last = behind()

    def seconds(self) -> float:
        """How long the machine has slept since this was last asked; 0 if it has not."""
        last, self._last = self._last, self._behind()
        slept = self._last - last
        return slept if slept >= _LEAST_SECONDS else 0.0
