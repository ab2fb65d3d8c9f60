"""How answers are laid out on the wire: the seam between one exchange and the APIs' formats."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from portable.dialects.said import NOTHING, Said
from portable.engine.sequence import Progress, TokenLogprob, Usage

NO_USAGE = Usage(0, 0, 0)


@dataclass(frozen=True, slots=True)
class Piece:
    """What one step brought for the answer of that index; the last one has a reason.

    `stop` is the stop string that ended it.
    """

    index: int
    said: Said = NOTHING
    finish_reason: str | None = None
    usage: Usage = NO_USAGE
    logprobs: tuple[TokenLogprob, ...] = ()
    stop: str = ""


@dataclass(slots=True)
class Answer:
    """A whole answer, and the stop string that ended it."""

    said: Said
    finish_reason: str
    usage: Usage
    logprobs: list[TokenLogprob]
    stop: str = ""


@dataclass(frozen=True, slots=True)
class Waiting:
    """What a client waits for: `position` others are before it; `progress` of reading its prompt.

    `fraction` is how much of the model is loaded. `seconds` until the next state, as far as it can
    be told by what came before.
    """

    state: Literal["loading", "queued", "reading", "answering"]
    fraction: float | None = None
    position: int | None = None
    progress: Progress | None = None
    seconds: float | None = None

    def told(self) -> dict[str, Any]:
        """What is known, as JSON."""
        said: dict[str, Any] = {"state": self.state}
        if self.fraction is not None:
            said["progress"] = round(self.fraction, 3)
        if self.position is not None:
            said["position"] = self.position
        if self.progress:
            said |= {"processed": self.progress.processed, "total": self.progress.total}
        return said if self.seconds is None else said | {"eta_s": round(self.seconds, 1)}


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

    def silence(self, index: int, waiting: Waiting) -> Iterable[bytes]:
        """Nothing came for a while: what keeps the client and the proxies between waiting.

        Also for each step of reading the prompt, if the request wants to know.
        """
        ...

    def failure(self, code: str, message: str) -> Iterable[bytes]:
        """An error after the first byte; nothing follows."""
        ...

    def end(self, spent: Sequence[Usage]) -> Iterable[bytes]:
        """All answers have come to their end; `spent` has each one's usage, in their order."""
        ...

    def body(self, answers: Sequence[Answer]) -> dict[str, Any]:
        """The reply as one JSON object."""
        ...
