"""What a piece of an answer says, taken apart: content, reasoning and tool calls."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class CallDelta:
    """A piece of one tool call; `id` and `name` come once, with its first piece.

    The `arguments` of all pieces with the same `index`, joined, are the text of a JSON object.
    """

    index: int
    id: str | None = None
    name: str | None = None
    arguments: str = ""


@dataclass(frozen=True, slots=True)
class Said:
    """Of one piece of an answer: reasoning comes before content, content before calls."""

    content: str = ""
    reasoning: str = ""
    calls: tuple[CallDelta, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.content or self.reasoning or self.calls)


class Reader(Protocol):
    """Takes one answer's text apart as it comes; how it is split changes no joined result.

    Nothing of the text is lost: a call that is none is content, as it was written.
    """

    def push(self, text: str) -> Said:
        """What can be told now; some of the text may be held back until more has come."""

    def finish(self) -> Said:
        """The answer has ended: what was held back."""


class Plain:
    """A reader that passes the text on as content."""

    def push(self, text: str) -> Said:
        return Said(text)

    def finish(self) -> Said:
        return Said()


PLAIN: Reader = Plain()  # it keeps nothing, so one is enough for all answers


NOTHING = Said()


def joined(parts: Iterable[Said]) -> Said:
    """Pieces of one answer as one; each call whole."""
    content, reasoning, calls = "", "", dict[int, CallDelta]()
    for part in parts:
        content += part.content
        reasoning += part.reasoning
        for call in part.calls:
            known = calls.get(call.index, CallDelta(call.index))
            calls[call.index] = CallDelta(
                call.index,
                known.id or call.id,
                known.name or call.name,
                known.arguments + call.arguments,
            )
    return Said(content, reasoning, tuple(calls[index] for index in sorted(calls)))
