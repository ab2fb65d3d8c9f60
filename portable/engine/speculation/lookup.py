"""Guesses that a text goes on as it did before; pure.

Prompt lookup (https://github.com/apoorvumang/prompt-lookup-decoding): the last tokens are searched
in prompt and answer, and what followed them there is the guess. The longer the match, the surer.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from portable.engine.sequence import Sequence
from portable.engine.speculation.drafter import Guess, Terms
from portable.engine.speculation.record import Record

_GRAM = 3
# Kinds of evidence: matches of at least so many tokens, and how often those come true at first.
_LENGTHS = (3, 4, 5, 7, 10, 15, 24)
_PRIORS = (0.2, 0.3, 0.4, 0.5, 0.65, 0.8, 0.9)
_LONGEST = _LENGTHS[-1]
_KINDS = tuple(max(k for k, n in enumerate(_LENGTHS) if n <= m) for m in range(3, _LONGEST + 1))


class Lookup:
    """A `Drafter` over what stood before. Costs nothing to speak of."""

    name = "prompt lookup"

    def __init__(self) -> None:
        self._texts: dict[Sequence, Text] = {}

    def retain(self, running: Iterable[Sequence]) -> None:
        self._texts = {s: text for s in running if (text := self._texts.get(s))}

    def propose(self, asked: Mapping[Sequence, int], terms: Terms) -> dict[Sequence, Guess]:
        guesses = {}
        for sequence, most in asked.items():
            text = self._texts.get(sequence) or Text(Record(_PRIORS, terms.answering))
            self._texts[sequence] = text
            text.record.pass_step(terms.answering)
            if guess := text.propose(sequence.tokens, most):
                guesses[sequence] = guess
        return guesses


class Text:
    """Where each three tokens of one text stood last. Each has its own record: texts differ."""

    def __init__(self, record: Record) -> None:
        self.record = record
        self._after: dict[tuple[int, ...], int] = {}
        self._known = 0
        self._repeats = 0, 0  # when the text had so many tokens, it went on as from this place

    def propose(self, tokens: list[int], most: int) -> Guess | None:
        """Up to `most` tokens that may come next; None when the last ones never stood before."""
        for end in range(max(self._known, _GRAM), len(tokens)):
            self._after[tuple(tokens[end - _GRAM : end])] = end
        self._known = len(tokens)
        length, place = self._repeats
        places = [place + len(tokens) - length] if place else []
        if (newest := self._after.get(tuple(tokens[-_GRAM:]))) is not None:
            places.append(newest)
        matched, place = max(((_matched(tokens, at), at) for at in places), default=(0, 0))
        if matched < _GRAM:
            self._repeats = 0, 0
            return None
        self._repeats = len(tokens), place
        found = tuple(tokens[place : place + most])
        kinds = (_KINDS[min(matched + n, _LONGEST) - _GRAM] for n in range(len(found)))
        return Guess(found, tuple(kinds), self.record)


def _matched(tokens: list[int], at: int) -> int:
    """How many tokens before `at` are those at the end."""
    count = 0
    while count < min(at, _LONGEST) and tokens[at - 1 - count] == tokens[-1 - count]:
        count += 1
    return count
