"""How many threads the next step takes, as other programs leave cores free; pure, given a clock.

Nothing is tried out on a quiet machine. While other programs are at work, fewer threads are held
against all of them by what steps take: ggml's threads wait for one another several hundred times a
token, so that one which gets no core holds up all.
"""

from __future__ import annotations

import statistics
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

# Cores that other programs may use before it is worth a comparison, and when they count as gone.
_BUSY, _QUIET = 0.3, 0.2
# Quiet samples until they do; more where they came back within seconds.
_CALM, _CALM_MOST = 2, 6
_SOON = 5.0
# Steps compared on each side, after one that pays for the change: threads start, caches are cold.
_STEPS = 4
# A step that takes so many times the median of the other side ends the comparison, the first too.
_HOPELESS, _HOPELESS_FIRST = 2.0, 5.0
# Seconds until two counts are compared, doubled when nothing has changed. A core that is gone for
# most of the time leaves little to find out: a step with a thread too many can take a second.
_AGAIN, _AGAIN_MOST = 1.0, 30.0
# At least so many times what the last comparison took: a large model's steps take seconds.
_REPAID = 10
# Shares of a core that are gone, and what must come back of it.
_GONE, _BACK = 0.75, 0.5
_DEPTH = 512

Others = Callable[[float], float | None]


class Step(Protocol):
    """`size` tokens at once, of which `reading` are prompts', the deepest at position `depth`."""

    @property
    def size(self) -> int: ...
    @property
    def reading(self) -> int: ...
    @property
    def depth(self) -> int: ...


@dataclass(slots=True)
class _Trial:
    """All threads against fewer, for one kind of step; `chosen` holds `since` then."""

    fewer: int
    most: int
    chosen: int
    since: float
    trying: int = 0
    spent: float = 0.0  # seconds of the last comparison, or of the one at work
    pause: float = _AGAIN
    depth: int = 0
    last: int = 0
    seconds: dict[int, deque[float]] = field(default_factory=dict)

    def threads(self, now: float, *, gone: bool) -> int:
        """What to take now. Cores that are `gone` say which side is right, if not for certain."""
        pause = self.pause
        if gone:
            pause = _AGAIN_MOST if self.chosen == self.fewer else _AGAIN
        if not self.trying and now - self.since >= max(pause, _REPAID * self.spent):
            self.trying, self.spent = self.fewer + self.most - self.chosen, 0.0
            self.seconds.pop(self.trying, None)
        return self.trying or self.chosen

    def move(self, depth: int) -> None:
        """Steps at another depth are not comparable: each token looks at all before it."""
        if abs(depth - self.depth) > _DEPTH:
            self.seconds.clear()
        self.depth = depth

    def learn(self, threads: int, size: int, seconds: float, now: float) -> None:
        """`size` rows took so long. The comparison ends when it is clear which count is better."""
        if self.trying:
            self.spent += seconds
        seconds /= size
        other = self.fewer + self.most - threads
        known = self.seconds.get(other, ())
        compared = threads == self.trying and len(known) == _STEPS
        first, self.last = threads != self.last, threads
        hopeless = _HOPELESS_FIRST if first else _HOPELESS
        if compared and seconds > hopeless * statistics.median(known):
            self._choose(other, now)
        elif not first:
            taken = self.seconds.setdefault(threads, deque(maxlen=_STEPS))
            taken.append(seconds)
            if threads == self.trying and len(taken) == _STEPS:
                self._compare(threads, other, now)

    def _compare(self, threads: int, other: int, now: float) -> None:
        if len(self.seconds.get(other, ())) < _STEPS:  # the first time: now the other side
            self.trying = other
            return
        best = min(threads, other, key=lambda n: statistics.median(self.seconds[n]))
        self._choose(best, now)

    def _choose(self, threads: int, now: float) -> None:
        self.pause = min(2 * self.pause, _AGAIN_MOST) if threads == self.chosen else _AGAIN
        self.chosen, self.trying, self.since = threads, 0, now


class Threads:
    """Chooses among 1 to `most` threads on `cores` logical cores.

    `others` tells how many cores other programs kept busy since it was last asked, or None when it
    is too early to say; without it the number stays. `choose` and `learn` frame each step.
    """

    def __init__(self, most: int, cores: int, others: Others | None = None) -> None:
        self.most = self.now = most
        self._cores = max(cores, most)
        self._others = others
        self._load = 0.0
        self._calm, self._calm_enough = 0, _CALM
        self._quiet_since = -_SOON
        self._fewer = 0  # 0: the machine is quiet
        self._gone = False
        self._trials: dict[tuple[bool, int], _Trial] = {}

    @property
    def why(self) -> str:
        """Why there are fewer threads than there could be; empty if there are not."""
        if self.now == self.most:
            return ""
        return f"other programs keep {self._load:.1f} of {self._cores} cores busy"

    @property
    def told(self) -> str:
        """Both, for people."""
        return f"{self.now} of {self.most} threads: {self.why}" if self.why else ""

    def choose(self, step: Step, at: float) -> int:
        """Threads for this step, which begins at the time `at` in seconds."""
        if self._others and self.most > 1 and (load := self._others(at)) is not None:
            self._observe(load, at)
        self.now = self.most
        if self._fewer:
            self.now = self._trial(step, at).threads(at, gone=self._gone)
        return self.now

    def learn(self, step: Step, seconds: float, at: float) -> None:
        """The step took so long and ended at the time `at`."""
        if self._fewer:
            trial = self._trial(step, at)
            trial.move(step.depth)
            trial.learn(self.now, step.size, seconds, at)

    def _observe(self, load: float, at: float) -> None:
        """Cores that are no cores of ours by right, such as second threads of one, are no loss."""
        self._load = load
        taken = load - (self._cores - self.most)
        if taken >= _BUSY:
            self._calm = 0
            fewer = min(self.most - 1, max(1, round(self.most - taken)))
            if not self._fewer:
                soon = at - self._quiet_since < _SOON
                self._calm_enough = min(2 * self._calm_enough, _CALM_MOST) if soon else _CALM
            if not self._fewer or abs(fewer - self._fewer) > self.most // 8:
                self._fewer, self._trials = fewer, {}
        elif taken < _QUIET and self._fewer:
            self._calm += 1
            if self._calm >= self._calm_enough:
                self._fewer, self._trials, self._quiet_since = 0, {}, at
        self._lose(taken)

    def _lose(self, taken: float) -> None:
        """Whether the cores are gone altogether; where that changes, nothing learnt holds."""
        gone = taken >= (_BACK if self._gone else _GONE) * (self.most - self._fewer)
        if gone != self._gone:
            self._gone, self._trials = gone, {}

    def _trial(self, step: Step, at: float) -> _Trial:
        """The comparison among steps like this one, which take about the same time a row."""
        kind = step.reading > 0, step.size.bit_length()
        if kind not in self._trials:
            # All of them where only a part of a core is missing: that is to be found out first.
            chosen = self._fewer if self._gone else self.most
            self._trials[kind] = _Trial(self._fewer, self.most, chosen=chosen, since=at)
        return self._trials[kind]
