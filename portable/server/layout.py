"""How answers are laid out on the wire: the seam between one exchange and the APIs' formats."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from portable.dialects.said import NOTHING, Said
from portable.engine.logprobs import TokenLogprob
from portable.engine.sequence import Usage

NO_USAGE = Usage(0, 0, 0)


@dataclass(frozen=True, slots=True)
class Piece:
    """What one step brought for the answer of that index; the last one has a reason."""

    index: int
    said: Said = NOTHING
    finish_reason: str | None = None
    usage: Usage = NO_USAGE
    logprobs: tuple[TokenLogprob, ...] = ()


@dataclass(slots=True)
class Answer:
    """A whole answer."""

    said: Said
    finish_reason: str
    usage: Usage
    logprobs: list[TokenLogprob]


class Layout(Protocol):
    """One reply's form, whole or as events: each method gives the bytes that the client reads.

    `id` names the reply. A reply of several answers has one layout.
    """

    id: str

    def begin(self, count: int, prompt_tokens: int | None) -> Iterable[bytes]:
        """Before the prompt is read: `count` answers are going to come.

        The prompt's tokens are known unless the model is still loading or the prompt very long.
        """
        ...

    def piece(self, piece: Piece) -> Iterable[bytes]: ...

    def silence(self, index: int) -> Iterable[bytes]:
        """Nothing came for a while: what keeps the client and the proxies between waiting."""
        ...

    def failure(self, code: str, message: str) -> Iterable[bytes]:
        """An error after the first byte; nothing follows."""
        ...

    def end(self, spent: Sequence[Usage]) -> Iterable[bytes]:
        """All answers have come to their end; `spent` has one usage for each."""
        ...

    def body(self, answers: Sequence[Answer]) -> dict[str, Any]:
        """The reply as one JSON object."""
        ...
