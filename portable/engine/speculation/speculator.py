"""Which guesses are checked in a step, and whether that pays at all; pure: asks no clock.

A guess is kept as far as the main model's own sampler draws the same tokens: what is decided here
changes the speed of an answer and never its text.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable

from portable.engine.config import LONGEST_GUESS
from portable.engine.costs import StepCosts
from portable.engine.sequence import Sequence, Slice
from portable.engine.speculation.drafter import Drafter, Guess, Terms

log = logging.getLogger("portable")

# Guesses must promise so many times the tokens a second: their costs are estimates.
_GAIN = 1.1
# Whoever is that sure of its first token keeps the others from guessing.
_GOOD = 0.6
# A step without guesses now and then tells what one costs: else their gain rests on old figures.
_PLAIN_EVERY = 64


class Speculator:
    """Asks the drafters in turn and spreads the rows of a step over their guesses.

    `costs` are the main model's, learned by whoever decodes.
    """

    def __init__(self, drafters: Iterable[Drafter], costs: StepCosts) -> None:
        self._drafters = list(drafters)
        self._costs = costs
        self._guesses: dict[Sequence, Guess] = {}
        self._gained: dict[Sequence, int] = {}
        self._since_plain = 0

    @property
    def is_on(self) -> bool:
        return bool(self._drafters)

    def propose(self, running: list[Sequence], most_rows: int, context: int) -> None:
        """Give drafts to those who answer, where that promises more tokens a second.

        A step takes `most_rows` rows, a sequence `context` tokens. There are no drafts beside a
        prompt that is being read.
        """
        if not (self._drafters or self._guesses):
            return
        self._guesses = {}
        for sequence in running:
            sequence.draft = ()
        self._gained = dict.fromkeys(running, 0)
        if not 0 < len(running) < most_rows or any(s.pending > 1 for s in running):
            return
        if self._since_plain >= _PLAIN_EVERY:
            return
        terms = self._terms(len(running))
        if not terms.plain:  # nothing is known yet
            return
        rooms = {s: room for s in running if (room := min(LONGEST_GUESS, s.room(context)))}
        for drafter in list(self._drafters):
            asked = {s: room for s, room in rooms.items() if self._has_no_good_guess(s)}
            self._ask(drafter, running, asked, terms)
        self._share_out(terms, most_rows - len(running))

    def confirms(self, part: Slice, at: int, token: int) -> bool:
        """Whether the draft's token number `at` is the one that was drawn; learns from it."""
        guess = self._guesses.get(part.sequence)
        if guess is None or at >= len(guess.tokens):
            return False
        hit = guess.tokens[at] == token
        guess.record.learn(guess.kinds[at], hit)
        kept = hit and at < len(part.draft)
        self._gained[part.sequence] += kept
        return kept

    def settle(self, slices: list[Slice]) -> None:
        """The step is done: what its guesses gained or lost."""
        rows = sum(len(part.draft) for part in slices)
        self._since_plain = self._since_plain + 1 if rows else 0
        if not rows:
            return
        answering = len(slices)
        plain = self._costs.seconds(answering)
        row = max(0.0, self._costs.seconds(answering + rows) / plain - 1) / rows
        for part in slices:
            if part.draft:
                gain = self._gained[part.sequence] / answering - len(part.draft) * row
                self._guesses[part.sequence].record.add(gain)

    def _has_no_good_guess(self, sequence: Sequence) -> bool:
        """Or one that the next drafter may have a better one for."""
        guess = self._guesses.get(sequence)
        return guess is None or not guess.record.may_guess or guess.survival[0] < _GOOD

    def _terms(self, answering: int) -> Terms:
        plain = self._costs.seconds(answering)
        more = self._costs.seconds(answering + LONGEST_GUESS // 2) - plain
        return Terms(answering, plain, max(0.0, more) / (LONGEST_GUESS // 2))

    def _ask(
        self,
        drafter: Drafter,
        running: list[Sequence],
        asked: dict[Sequence, int],
        terms: Terms,
    ) -> None:
        try:
            drafter.retain(running)
            self._guesses |= drafter.propose(asked, terms)
        except Exception as error:  # whatever goes wrong in guessing costs nobody an answer
            log.warning("%s is off: %s: %s", drafter.name, type(error).__name__, error)
            self._drafters.remove(drafter)

    def _share_out(self, terms: Terms, most: int) -> None:
        """The surest guesses of all, as many as give the most tokens a second together."""
        price = terms.row / terms.plain
        chances = sorted(
            (-chance, at, n)
            for n, guess in enumerate(self._guesses.values())
            if guess.record.may_guess
            for at, chance in enumerate(guess.survival[: guess.record.affords(price)])
        )[: max(0, most)]
        expected, best, count = float(terms.answering), _GAIN, 0
        for rows, (chance, _, _) in enumerate(chances, 1):
            expected -= chance
            longer = max(1.0, self._costs.seconds(terms.answering + rows) / terms.plain)
            if (gain := expected / terms.answering / longer) > best:
                best, count = gain, rows
        lengths = [0 for _ in self._guesses]
        for _, at, n in chances[:count]:
            lengths[n] = at + 1
        for (sequence, guess), length in zip(self._guesses.items(), lengths, strict=True):
            sequence.draft = guess.tokens[:length]
