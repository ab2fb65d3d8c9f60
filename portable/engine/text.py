"""Token bytes -> text deltas: whole characters only, stop strings held back. Pure."""

from __future__ import annotations

import codecs


class TextStream:
    """The text of one answer as it grows. `push` and `flush` return what may be shown now.

    A character is shown when its last byte has come; bytes that never become one are U+FFFD. Text
    that could be the beginning of a stop string is held back until it is known not to be; the stop
    string itself is never shown, `stop` says which it was. `begun` is how the text begins, before
    any token.
    """

    def __init__(self, stop: tuple[str, ...] = (), begun: str = "") -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._stop = stop
        self._begun = begun
        self._held = ""
        self.stop = ""

    @property
    def stopped(self) -> bool:
        return bool(self.stop)

    def push(self, piece: bytes) -> str:
        """Add one token's bytes. After a stop string `stopped` is true and nothing more comes."""
        begun, self._begun = self._begun, ""
        return begun + self._release(self._decoder.decode(piece))

    def flush(self, *, cut: bool = False) -> str:
        """The end: what was held back, and U+FFFD for bytes that never became a character.

        An answer that was `cut` might have finished its last character: it is left out.
        """
        text = "" if cut else self._release(self._decoder.decode(b"", final=True))
        held, self._held = self._held, ""
        return text + ("" if self.stopped else held)

    def _release(self, text: str) -> str:
        if self.stopped:
            return ""
        if not self._stop:
            return text
        text = self._held + text
        found = [(at, stop) for stop in self._stop if (at := text.find(stop)) >= 0]
        if found:
            at, self.stop = min(found)
            self._held = ""
            return text[:at]
        keep = max(overlap(text, s) for s in self._stop)
        self._held = text[len(text) - keep :]
        return text[: len(text) - keep]


def overlap(text: str, stop: str) -> int:
    """Length of the longest end of `text` that is a proper beginning of `stop`."""
    longest = min(len(text), len(stop) - 1)
    return next((n for n in range(longest, 0, -1) if text.endswith(stop[:n])), 0)
