"""One answer and its stopwatch: pieces in, a sample out; knows no HTTP and no engine."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """What came of one request. Times are seconds since it was sent.

    `tokens` are what the server said, or the pieces of text if it said nothing (`counted`).
    `first` is None if no text came, and the prompt's numbers are if nobody told them.
    """

    ended: float
    first: float | None = None
    tokens: int = 0
    counted: bool = False
    prompt_tokens: int | None = None
    cached_tokens: int | None = None
    error: str | None = None

    @property
    def decode_rate(self) -> float | None:
        """Tokens a second after the first one."""
        if self.first is None or self.tokens < 2 or self.ended <= self.first:
            return None
        return (self.tokens - 1) / (self.ended - self.first)

    @property
    def prefill_rate(self) -> float | None:
        """Prompt tokens a second, cached ones not counted: an estimate, it includes the way."""
        if not self.first or self.prompt_tokens is None:
            return None
        return (self.prompt_tokens - (self.cached_tokens or 0)) / self.first


class Answer:
    """The clock runs from the constructor to the last `piece` or `finish`."""

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self._clock = clock
        self._start = clock()
        self._first: float | None = None
        self._ended = 0.0
        self._pieces = 0
        self._tokens: int | None = None
        self._prompt: tuple[int | None, int | None] = (None, None)
        self._finished = False
        self._error: str | None = None

    def piece(self, text: str) -> None:
        """Text arrived; an empty one is a sign of life and no token."""
        self._ended = self._clock() - self._start
        if text:
            self._pieces += 1
            self._first = self._ended if self._first is None else self._first

    def finish(self) -> None:
        """The answer is whole."""
        self._finished = True
        self._ended = self._clock() - self._start

    def used(self, tokens: int | None, prompt: int | None, cached: int | None) -> None:
        """What the other side counted. The last word counts."""
        self._tokens = tokens
        self._prompt = prompt, cached

    def fail(self, message: str) -> None:
        """The request failed; the first reason is kept."""
        self._error = self._error or " ".join(message.split())[:300]

    def sample(self) -> Sample:
        if not self._finished:
            self.fail("the answer broke off: it ended without a finish_reason")
        return Sample(
            ended=self._ended,
            first=self._first,
            tokens=self._pieces if self._tokens is None else self._tokens,
            counted=self._tokens is None,
            prompt_tokens=self._prompt[0],
            cached_tokens=self._prompt[1],
            error=self._error,
        )
