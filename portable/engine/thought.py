"""A model's thought before its answer: free of the answer's grammar, and as long as its budget."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal, Protocol

import numpy as np

from portable.engine.protocol import Begun
from portable.engine.sampling import Constraint, Logits
from portable.engine.sequence import Thinking

# Where a template opens a thought, that is near the prompt's end.
_END_OF_PROMPT = 16


class Vocabulary(Protocol):
    """What is needed of a Backend here."""

    def tokenize(self, text: str, *, special: bool, start: bool) -> list[int]: ...
    def piece(self, token: int) -> bytes: ...
    def token_text(self, token: int) -> str: ...


class Thought:
    """A Constraint of the whole answer: none while the model thinks, `answer` from there on.

    When the budget is spent the closing tag's tokens are forced. A thought that the prompt has not
    opened begins with the opening tag as the first token, or there is none.
    """

    def __init__(self, asked: Thinking, backend: Vocabulary, answer: Constraint | None) -> None:
        self._backend = backend
        self._answer = answer
        self._close = asked.close
        self._budget = asked.budget
        self._closing = backend.tokenize(asked.close, special=True, start=False)
        opening = backend.tokenize(asked.open, special=True, start=False)
        self._open = opening[0] if len(opening) == 1 else None
        self._state: Literal["before", "inside", "after"] = "inside" if asked.opened else "before"
        self._forced: list[int] = []
        self._tail = ""
        self._force_if_spent()

    @property
    def finished(self) -> bool:
        return self._state == "after" and self._answer is not None and self._answer.finished

    def masked(self, logits: Logits) -> Logits:
        if self._forced:
            only = np.full_like(logits, -np.inf)
            only[self._forced[0]] = 0
            return only
        if self._state == "inside" or self._answer is None:
            return logits
        allowed = self._answer.masked(logits)
        if self._state == "before" and self._open is not None:
            allowed[self._open] = logits[self._open]
        return allowed

    def accept(self, token: int) -> None:
        if self._state == "before" and token == self._open:
            self._state = "inside"
            self._force_if_spent()
        elif self._state == "inside":
            self._think(token)
        elif self._answer or not self._backend.piece(token).isspace():
            self._state = "after"
            if self._answer:
                self._answer.accept(token)

    def _think(self, token: int) -> None:
        text = text_of(self._backend, [token])
        self._tail = (self._tail + text)[-len(self._close) - len(text) :]
        if self._forced:
            self._forced.pop(0)
        elif self._budget is not None:
            self._budget -= 1
        if self._close in self._tail:
            self._state, self._forced = "after", []
        else:
            self._force_if_spent()

    def _force_if_spent(self) -> None:
        if self._state == "inside" and not self._forced and self._budget is not None:
            self._forced = list(self._closing) if self._budget <= 0 else []


def begin(
    prompt: list[int], asked: Thinking | None, begun: Begun | None, backend: Vocabulary
) -> tuple[list[int], Thinking | None]:
    """A prompt with the answer that is begun, and whether it ends within a thought."""
    opened = asked is not None and _is_open(asked, prompt, backend)
    if begun and asked and (opened or begun.reasoning):
        if not opened:
            prompt = prompt + backend.tokenize(asked.open, special=True, start=False)
        prompt = prompt + _plain(begun.reasoning, backend)
        opened = not begun.content
        if begun.content:
            prompt = prompt + backend.tokenize(asked.close, special=True, start=False)
            prompt = prompt + _plain(f"\n\n{begun.content}", backend)
    elif begun:
        prompt = prompt + _plain(begun.content, backend)
    return prompt, replace(asked, opened=opened) if asked else None


def _plain(text: str, backend: Vocabulary) -> list[int]:
    return backend.tokenize(text, special=False, start=False) if text else []


def _is_open(asked: Thinking, prompt: Sequence[int], backend: Vocabulary) -> bool:
    end = text_of(backend, prompt[-_END_OF_PROMPT:])
    return end.rfind(asked.open) > end.rfind(asked.close)


def text_of(backend: Vocabulary, tokens: Sequence[int]) -> str:
    """Their text; of control tokens, which have none, the name."""
    pieces = (backend.piece(token) or backend.token_text(token).encode() for token in tokens)
    return b"".join(pieces).decode("utf-8", "replace")
