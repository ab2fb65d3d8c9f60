"""An answer as blocks, one after the other: thoughts, texts and tool calls; no API's words."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal

from portable.dialects.said import CallDelta, Said
from portable.engine.sequence import TokenLogprob

Kind = Literal["reasoning", "text", "call"]


@dataclass(slots=True)
class Block:
    """`text` is what was said so far: of a call its arguments, the text of a JSON object.

    `logprobs` are those of a text's tokens, if they are wanted.
    """

    kind: Kind
    index: int
    text: str = ""
    name: str = ""
    call_id: str = ""
    logprobs: list[TokenLogprob] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Step:
    """A block begins, goes on with a `text`, or ends."""

    change: Literal["begin", "more", "end"]
    block: Block
    text: str = ""


class Blocks:
    """The blocks of one answer as it comes: only the last one is open, until the next begins."""

    def __init__(self) -> None:
        self.all: list[Block] = []
        self._is_open = False
        self._calls: dict[int, Block] = {}

    @property
    def has_calls(self) -> bool:
        return bool(self._calls)

    def push(self, said: Said) -> Iterator[Step]:
        if said.reasoning:
            yield from self._add("reasoning", said.reasoning)
        if said.content:
            yield from self._add("text", said.content)
        for call in said.calls:
            yield from self._call(call)

    def finish(self) -> Iterator[Step]:
        """The answer has ended. One that said nothing is an empty text: clients look for one."""
        if not self.all:
            yield from self._begin(Block("text", 0))
        yield from self._end()

    def _add(self, kind: Kind, text: str) -> Iterator[Step]:
        if not (self._is_open and self.all[-1].kind == kind):
            yield from self._begin(Block(kind, len(self.all)))
        yield from self._more(text)

    def _call(self, call: CallDelta) -> Iterator[Step]:
        if call.index not in self._calls:
            block = Block("call", len(self.all), name=call.name or "", call_id=call.id or "")
            self._calls[call.index] = block
            yield from self._begin(block)
        if call.arguments:
            yield from self._more(call.arguments)

    def _begin(self, block: Block) -> Iterator[Step]:
        yield from self._end()
        self.all.append(block)
        self._is_open = True
        yield Step("begin", block)

    def _more(self, text: str) -> Iterator[Step]:
        block = self.all[-1]
        block.text += text
        yield Step("more", block, text)

    def _end(self) -> Iterator[Step]:
        if self._is_open:
            self._is_open = False
            yield Step("end", self.all[-1])
