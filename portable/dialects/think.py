"""Thoughts at the beginning of an answer, between tags: <think>…</think>."""

from __future__ import annotations

from dataclasses import dataclass

from portable.dialects.parser import Parser, Steps
from portable.dialects.said import Reader, Said


@dataclass(frozen=True, slots=True)
class Tags:
    open: str
    close: str


# By what stands in a template; some of these are control tokens.
KNOWN = (
    Tags("<think>", "</think>"),
    Tags("<seed:think>", "</seed:think>"),
    Tags("[THINK]", "[/THINK]"),
    Tags("<|thought_start|>", "<|thought_end|>"),
    Tags("<|inner_prefix|>", "<|inner_suffix|>"),
)


class Thoughts(Parser):
    """Reads the thoughts, then hands everything to `inner`."""

    def __init__(self, inner: Reader, tags: Tags) -> None:
        self._inner, self._tags = inner, tags
        self._over = False
        super().__init__({})

    def push(self, text: str) -> Said:
        return self._inner.push(text) if self._over else self._with_inner(super().push(text))

    def finish(self) -> Said:
        if self._over:
            return self._inner.finish()
        said = self._with_inner(super().finish())
        last = self._inner.finish()
        return Said(said.content + last.content, said.reasoning, said.calls + last.calls)

    def tell_rest(self) -> None:
        """It is the inner reader's."""

    def read(self) -> Steps:
        open = self._tags.open
        at = yield from self.blanks(0)
        if (yield from self.follows(open, at)):
            self.drop(at + len(open))
            self.drop((yield from self.until(self._tags.close, self.think)))
            self.drop((yield from self.blanks(0)))
        self._over = True

    def _with_inner(self, said: Said) -> Said:
        """What comes behind the thoughts is the inner reader's."""
        if not self._over:
            return said
        text, self.text = self.text, ""
        rest = self._inner.push(text)
        return Said(rest.content, said.reasoning, rest.calls)
