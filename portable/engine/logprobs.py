"""How likely the tokens of one answer were, told together with their text. Pure."""

from __future__ import annotations

import codecs
from collections import deque
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from portable.engine.sequence import TokenLogprob


class Logprobs:
    """Holds each token back until the first byte of its text is shown.

    So the tokens that were told are those of the text: none of a stop string, none of a character
    that never came to its end. `begun` is how the text begins before any token.
    """

    def __init__(self, top: int, piece: Callable[[int], bytes], begun: str = "") -> None:
        self._top = top
        self._piece = piece
        self._held: deque[tuple[int, TokenLogprob]] = deque()
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._read = len(begun.encode())  # bytes of text, where what is no character takes three
        self._shown = 0

    def add(self, token: int, logits: npt.NDArray[np.float32]) -> None:
        """A token was drawn from this row of shape (n_vocab,)."""
        known = TokenLogprob(self._piece(token), *_logprobs(token, logits, self._top, self._piece))
        self._held.append((self._read, known))
        self._read += len(self._decoder.decode(known.token).encode())

    def take(self, text: str) -> tuple[TokenLogprob, ...]:
        """The tokens that `text`, which is shown now, begins or goes on with."""
        self._shown += len(text.encode())
        told = []
        while self._held and self._is_shown(*self._held[0]):
            told.append(self._held.popleft()[1])
        return tuple(told)

    def _is_shown(self, start: int, known: TokenLogprob) -> bool:
        return start < self._shown + (not known.token)


def _logprobs(
    token: int, logits: npt.NDArray[np.float32], count: int, piece: Callable[[int], bytes]
) -> tuple[float, tuple[tuple[bytes, float], ...]]:
    peak = logits.max()
    total = float(peak) + float(np.log(np.exp(logits - peak).sum(dtype=np.float64)))
    best = np.argpartition(logits, -count)[-count:] if count else np.empty(0, np.int64)
    best = best[np.argsort(-logits[best], kind="stable")]
    top = tuple((piece(int(id)), float(logits[id]) - total) for id in best)
    return float(logits[token]) - total, top
