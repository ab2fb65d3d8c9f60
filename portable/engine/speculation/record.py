"""How often guesses came true, and how much more guessing may lose; pure."""

from __future__ import annotations

from collections.abc import Iterable

# The newest so many tell: a text turns from copying to inventing and back.
_MEMORY = 64
# What is thought of a kind before anything was tried weighs as much as so many tries.
_PRIOR = 4
# Of the time that answering takes, so much may be lost by trying.
_INTEREST = 0.015
# Plain steps: what may be lost at the very beginning, and later at once.
_START, _MOST = 1.0, 8.0


class Record:
    """What became of a drafter's guesses, by the kind of their evidence.

    Losses and gains are counted in plain steps. A purse is filled by what guessing gains and,
    slowly, by every step; when it is empty no guess is allowed, so that no workload pays for more
    than a few. What is invested may be earned back by guesses first. `answering` sequences share a
    step and its losses.
    """

    def __init__(self, priors: Iterable[float], answering: int = 1) -> None:
        self._rates = list(priors)
        self._tries = [_PRIOR for _ in self._rates]
        self._start = self._balance = _START / answering
        self._debt = 0.0
        self.may_guess = True

    def affords(self, price: float) -> int:
        """How many guesses at this price may turn out wrong at once."""
        return max(1, int((self._balance + self._debt) / max(price, 1e-9)))

    @property
    def may_invest(self) -> bool:
        return self._balance > 0

    @property
    def is_full(self) -> bool:
        return self._balance == _MOST

    def rate(self, kind: int) -> float:
        """How often a guess of this kind came true, when all before it did."""
        return self._rates[kind]

    def learn(self, kind: int, hit: bool) -> None:
        self._tries[kind] = min(_MEMORY, self._tries[kind] + 1)
        self._rates[kind] += (hit - self._rates[kind]) / self._tries[kind]

    def pass_step(self, answering: int) -> None:
        """A step went by, with guesses or without."""
        self.add(_INTEREST / answering)

    def add(self, gain: float) -> None:
        self._balance = min(_MOST, self._balance + gain)
        self._debt = min(self._debt, max(0.0, -self._balance))
        # Once empty, it is filled for a good try before the next one.
        left = self._balance + self._debt
        self.may_guess = left >= (0 if self.may_guess else self._start)

    def invest(self, cost: float) -> None:
        self._balance -= cost
        self._debt += cost
