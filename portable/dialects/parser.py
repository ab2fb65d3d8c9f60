"""The reader that the dialects build on: it waits, holds back and tells; they say what for.

A dialect writes `read`, a generator that goes along the answer as if all of it were there and
yields where more has to come. What is not told yet is `text`; places in it are counted from its
first character.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Generator, Mapping
from typing import Any

from portable.dialects.said import CallDelta, Said
from portable.dialects.scan import Value
from portable.engine.text import overlap

Steps = Generator[None, None, None]
At = Generator[None, None, int]
Found = Generator[None, None, bool]

# Characters up to a call's arguments: what is longer is no call.
_LONGEST_HEAD = 4096
# So many blanks before a marker go with it: templates put line ends there.
_BLANKS = 64
_IN_NAMES = {"_", "-", "."}
# Text is taken in parts of so many characters: telling one thing copies what follows it.
_PART = 4096


class NotACall(Exception):
    """What began like a call is none, as its character `at` shows."""

    def __init__(self, at: int) -> None:
        super().__init__(at)
        self.at = at


class Parser:
    """A Reader of one answer. `functions` are on offer, by name, with their arguments' schemas.

    No other name makes a call.
    """

    def __init__(self, functions: Mapping[str, Any]) -> None:
        self.functions = functions
        self.text = ""
        self.ended = False
        self._begun = 0
        self._content: list[str] = []
        self._reasoning: list[str] = []
        self._calls: list[CallDelta] = []
        # Blanks right behind a call or around a thought belong to neither.
        self._strips = False
        self._thinks = False
        self._steps = self.read()
        next(self._steps, None)

    def read(self) -> Steps:
        raise NotImplementedError

    def push(self, text: str) -> Said:
        for at in range(0, len(text), _PART):
            self.text += text[at : at + _PART]
            next(self._steps, None)
        return self._said()

    def finish(self) -> Said:
        self.ended = True
        for _ in self._steps:
            pass
        self.tell_rest()
        return self._said()

    def tell_rest(self) -> None:
        """What `read` left."""
        self.tell(len(self.text))

    def _said(self) -> Said:
        said = Said("".join(self._content), "".join(self._reasoning), tuple(self._calls))
        self._content, self._reasoning, self._calls = [], [], []
        return said

    def tell(self, count: int) -> None:
        """The next `count` characters are content."""
        text = self._taken(count)
        if self._strips:
            text = text.lstrip()
        if text:
            self._content.append(text)
            self._strips = False

    def think(self, count: int) -> None:
        """The next `count` characters are reasoning."""
        text = self._taken(count)
        if not self._thinks:
            text = text.lstrip()
        if text:
            self._reasoning.append(text)
            self._thinks = True

    def begin_call(self, name: str) -> None:
        self._calls.append(CallDelta(self._begun, f"call_{secrets.token_hex(12)}", name))
        self._begun += 1
        self._strips = True

    def argue(self, arguments: str) -> None:
        """More of the arguments of the call that was begun last."""
        if arguments:
            self._calls.append(CallDelta(self._begun - 1, arguments=arguments))

    def rest(self) -> Steps:
        """All that still comes is content."""
        while not self.ended:
            self.tell(len(self.text))
            yield

    def drop(self, count: int) -> None:
        """The next `count` characters say nothing."""
        self.text = self.text[count:]

    def _taken(self, count: int) -> str:
        text, self.text = self.text[:count], self.text[count:]
        return text

    def until(self, marker: str, tell: Callable[[int], None] | None = None) -> At:
        """Tell what comes before the marker. The place behind it, or 0 if the answer has ended.

        The marker is left where it is, with the blanks before it: it may still be content.
        """
        tell = tell or self.tell
        while True:
            found = self.text.find(marker)
            if found < 0 and self.ended:
                tell(len(self.text))
                return 0
            end = found if found >= 0 else len(self.text) - overlap(self.text, marker)
            blanks = _blanks_before(self.text, end)
            tell(end - blanks)
            if found >= 0:
                return blanks + len(marker)
            yield

    def peek(self, at: int) -> Generator[None, None, str]:
        """The character at a place; "" behind the answer's end, or where a head is too long."""
        while at >= len(self.text) and not self.ended and at < _LONGEST_HEAD:
            yield
        return self.text[at : at + 1] if at < _LONGEST_HEAD else ""

    def blanks(self, at: int) -> At:
        """The place of the next character that is no blank."""
        while (yield from self.peek(at)).isspace():
            at += 1
        return at

    def follows(self, marker: str, at: int) -> Found:
        """Whether the marker comes at this place."""
        for step, character in enumerate(marker):
            if (yield from self.peek(at + step)) != character:
                return False
        return True

    def skip(self, marker: str) -> Found:
        """Drop blanks and the marker, if that is what comes next."""
        at = yield from self.blanks(0)
        found = yield from self.follows(marker, at)
        if found:
            self.drop(at + len(marker))
        return found

    def expect(self, marker: str, at: int) -> At:
        """The place behind blanks and the marker. Raises NotACall if something else comes."""
        at = yield from self.blanks(at)
        if not (yield from self.follows(marker, at)):
            raise NotACall(at)
        return at + len(marker)

    def find(self, marker: str, at: int) -> At:
        """The place where the marker begins, here or later. Raises NotACall if it does not come."""
        while (found := self.text.find(marker, at, _LONGEST_HEAD)) < 0:
            if self.ended or len(self.text) >= _LONGEST_HEAD:
                raise NotACall(min(len(self.text), _LONGEST_HEAD))
            yield
        return found

    def word(self, at: int) -> At:
        """The place behind the name that is here."""
        while (character := (yield from self.peek(at))).isalnum() or character in _IN_NAMES:
            at += 1
        return at

    def value(self, at: int) -> At:
        """The place behind the JSON value at this one. Raises NotACall if there is none."""
        value, start = Value(), at
        while not value.done:
            if not (yield from self.peek(at)):
                raise NotACall(at)
            at = value.feed(self.text[:_LONGEST_HEAD], at)
        if at == start:
            raise NotACall(at)
        return at


def _blanks_before(text: str, end: int) -> int:
    start = max(0, end - _BLANKS)
    return end - start - len(text[start:end].rstrip())
