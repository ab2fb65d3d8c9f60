"""What guesses ahead: the seam that prompt lookup and a draft model stand behind."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Protocol

from portable.engine.sequence import Sequence
from portable.engine.speculation.record import Record


@dataclass(frozen=True, slots=True)
class Guess:
    """Tokens that may come next, and of each the kind of its evidence in `record`."""

    tokens: tuple[int, ...]
    kinds: tuple[int, ...]
    record: Record

    @property
    def survival(self) -> list[float]:
        """The probability of each token that it and all before it come true."""
        left, survival = 1.0, []
        for kind in self.kinds:
            left *= self.record.rate(kind)
            survival.append(left)
        return survival


@dataclass(frozen=True, slots=True)
class Terms:
    """Of the next step, in seconds: what it takes for `answering` sequences without guesses, and
    what it takes more for each guessed token that is checked in it (`row`)."""

    answering: int
    plain: float
    row: float


class Drafter(Protocol):
    """Guesses for many sequences at once."""

    name: str

    def retain(self, running: Iterable[Sequence]) -> None:
        """All others may be forgotten."""

    def propose(self, asked: Mapping[Sequence, int], terms: Terms) -> dict[Sequence, Guess]:
        """Guesses of at most so many tokens each; who has none is left out."""
