"""Where a JSON value ends, found as its text comes; every character is looked at once."""

from __future__ import annotations

import re

_IN_STRING = re.compile(r'[^"\\]*')
_BETWEEN = re.compile(r'[^"{}\[\]]*')
_BARE = re.compile(r'[^\s,:"{}\[\]]*')


class Value:
    """One value whose text is fed in pieces. It is not checked, only its brackets are counted."""

    def __init__(self) -> None:
        self.done = False
        self._kind = ""
        self._depth = 0
        self._quoted = False
        self._escaped = False

    def feed(self, text: str, at: int = 0) -> int:
        """How far from `at` on the text belongs to the value; `done` when it ends there."""
        if not self._kind and at < len(text):
            self._kind = text[at] if text[at] in '"{[' else "bare"
        if self._kind == "bare":
            at = _end(_BARE, text, at)
            self.done = at < len(text)
            return at
        while at < len(text) and not self.done:
            at = self._string(text, at) if self._quoted else self._structure(text, at)
        return at

    def _string(self, text: str, at: int) -> int:
        if self._escaped:
            self._escaped = False
            return at + 1
        at = _end(_IN_STRING, text, at)
        if at == len(text):
            return at
        self._escaped = text[at] == "\\"
        self._quoted = self._escaped
        self.done = not self._quoted and self._depth == 0
        return at + 1

    def _structure(self, text: str, at: int) -> int:
        at = _end(_BETWEEN, text, at)
        if at == len(text):
            return at
        self._quoted = text[at] == '"'
        self._depth += {"{": 1, "[": 1, "}": -1, "]": -1}.get(text[at], 0)
        self.done = self._depth <= 0 and not self._quoted
        return at + 1


def _end(pattern: re.Pattern[str], text: str, at: int) -> int:
    found = pattern.match(text, at)
    return found.end() if found else at
