"""Guesses what an answer says next from what stood before; pure: told what steps took.

Prompt lookup (https://github.com/apoorvumang/prompt-lookup-decoding): the last tokens are searched
in prompt and answer, and what followed them there is decoded along as a draft. A draft is kept as
far as the sampler would have drawn the same, so the text is that of decoding token by token.
"""

from __future__ import annotations

from collections.abc import Sequence

_GRAM = 3
MAX_DRAFT = 15
_LENGTHS = (MAX_DRAFT, 11, 7, 5, 3, 2, 1)
# A draft must promise this much: costs are estimates, and a lost draft is time lost.
_GAIN = 1.1
_MEMORY = 0.85
# Rows of a step are counted by these sizes: near sizes cost nearly the same.
_SIZES = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 64)
# What another row is thought to cost before any step has had so many: a first try tells.
_ASSUMED = 0.3


class Costs:
    """Seconds of a step by its number of rows, as measured."""

    def __init__(self) -> None:
        self._seconds: dict[int, float] = {}

    def learn(self, rows: int, seconds: float) -> None:
        size = _size(rows)
        known = self._seconds.get(size)
        self._seconds[size] = seconds if known is None else 0.8 * known + 0.2 * seconds

    def ratio(self, more: int, rows: int) -> float:
        """How much longer a step of `more` rows takes than one of `rows`."""
        base = self._seconds.get(_size(rows))
        asked = self._seconds.get(_size(more))
        if not base or not asked:
            return 1 + _ASSUMED * (more - rows)
        return asked / base


class Lookup:
    """One sequence's tokens by what came before them, and how often they came again.

    `hit_rate` is learned from every token, drafted or not: guessing costs nothing.
    """

    def __init__(self) -> None:
        self._after: dict[tuple[int, ...], int] = {}
        self._known = 0
        self._guess: int | None = None
        self.hit_rate = 0.0

    def propose(self, tokens: Sequence[int], most: int) -> list[int]:
        """Up to `most` tokens that may come next; [] when the last ones never stood before."""
        for end in range(max(self._known, _GRAM), len(tokens)):
            self._after[tuple(tokens[end - _GRAM : end])] = end
        self._known = len(tokens)
        at = self._after.get(tuple(tokens[-_GRAM:]))
        found = list(tokens[at : at + most]) if at is not None else []
        self._guess = found[0] if found else None
        return found

    def confirms(self, draft: Sequence[int], token: int) -> bool:
        """Whether the draft goes on with the token that came. Without one, learns all the same."""
        guess = draft[0] if draft else self._guess
        if guess is not None:
            self.hit_rate = _MEMORY * self.hit_rate + (1 - _MEMORY) * (guess == token)
        self._guess = None
        return bool(draft) and guess == token


def draft_length(hit_rate: float, rows: int, most: int, costs: Costs) -> int:
    """How many tokens to draft beside `rows` rows for the most tokens a second; 0 for none."""
    best, length = _GAIN, 0
    for count in _LENGTHS:
        if count > most:
            continue
        tokens = rows + sum(hit_rate**n for n in range(1, count + 1))
        gain = tokens / rows / costs.ratio(rows + count, rows)
        if gain > best:
            best, length = gain, count
    return length


def _size(rows: int) -> int:
    return min(_SIZES, key=lambda size: abs(size - rows))
