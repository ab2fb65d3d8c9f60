"""A safetensors file that is not on this disk: its header by itself, its tensors as they pass.

Knows no hub: whoever calls brings files with the few methods of `Remote`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from itertools import chain
from typing import Protocol

import numpy as np

from convert.safetensors_file import Bytes, TensorFile
from convert.sha256 import sha256
from convert.window import Span, Window
from portable.errors import CheckpointError

NEAR = 1 << 16
Known = tuple[int, bytes]  # bytes, and where in the file they begin


class Remote(Protocol):
    """One file: `size` in bytes, `sha256` of all of them. Both methods may raise NetworkError."""

    @property
    def name(self) -> str: ...
    @property
    def size(self) -> int: ...
    @property
    def sha256(self) -> str: ...

    def read(self, start: int, count: int) -> bytes:
        """These bytes, asked for on their own."""

    def blocks(self, start: int) -> Generator[bytes]:
        """All bytes from `start` to the end, in pieces."""


class Damaged(Exception):
    """A file has passed and is not what it should be: nothing that was made of it counts."""

    def __init__(self, file: RemoteFile, got: str) -> None:
        super().__init__(f"expected sha256 {file.remote.sha256}, got {got}")


class RemoteFile(TensorFile):
    """`tensors` are known from the beginning; `read` reads them while the file is `passing`.

    Its header and what is fetched by requests of their own is known then, in any thread, and held
    against what passes: for good, or `aside` while the file passes.
    """

    def __init__(self, remote: Remote) -> None:
        self.remote = remote
        self._known: list[Known] = []
        self._aside: list[Known] = []
        self._window: Window | None = None
        try:
            super().__init__(remote.name, remote.size)
        except CheckpointError:  # what came may be wrong, and not what lies there
            self._known.clear()
            super().__init__(remote.name, remote.size)

    @property
    def identity(self) -> bytes:
        return self.remote.sha256.encode() + b"".join(data for _, data in self._known)

    def fetch(self, spans: Iterable[Span]) -> None:
        """Reads these for good; those that are close together by one request."""
        self._known += self._fetched(spans)

    @contextmanager
    def aside(self, spans: Iterable[Span]) -> Iterator[str]:
        """Reads these ahead of all others, and gives their digest."""
        self._aside = self._fetched(spans)
        digest = hashlib.sha256()
        for _, data in self._aside:
            digest.update(data)
        try:
            yield digest.hexdigest()
        finally:
            self._aside = []

    def _fetched(self, spans: Iterable[Span]) -> list[Known]:
        return [(start, self.remote.read(start, stop - start)) for start, stop in _joined(spans)]

    def read(self, start: int, count: int) -> Bytes:
        """What is known, else as planned in `passing`, else by a request of its own."""
        if known := self._find(start, start + count):
            return np.frombuffer(known[1], np.uint8, count, start - known[0])
        if self._window:
            return self._window.read(start, count)
        data = self.remote.read(start, count)
        self._known.append((start, data))
        return np.frombuffer(data, np.uint8)

    def _find(self, start: int, stop: int) -> Known | None:
        known = chain(self._known, self._aside)
        holding = (k for k in known if k[0] <= start and stop <= k[0] + len(k[1]))
        return next(holding, None)

    @contextmanager
    def passing(
        self, reads: Sequence[Span], marks: Iterable[int], position: int, state: str | None
    ) -> Iterator[Window]:
        """Lets the bytes from `position` on pass, where the digest's state was `state`."""
        reads = [span for span in reads if not self._find(*span)]
        blocks = self._held_against(self.remote.blocks(position), position)
        window = Window(blocks, position, sha256(position, state), reads, marks)
        with closing(window) as self._window:
            try:
                yield window
            finally:
                self._window = None

    def _held_against(self, blocks: Generator[bytes], at: int) -> Generator[bytes]:
        """The blocks, until one is not what is known of it."""
        with closing(blocks):
            for block in blocks:
                if not all(_agree(at, block, known) for known in chain(self._known, self._aside)):
                    raise Damaged(self, "other bytes than it began with")
                yield block
                at += len(block)

    def check(self, tell: Callable[[int], None]) -> None:
        """Waits for the rest of the bytes; Damaged when they are not the right ones."""
        assert self._window, "passing"
        got = self._window.finish(tell)
        if got != self.remote.sha256:
            raise Damaged(self, got)


def _joined(spans: Iterable[Span]) -> list[Span]:
    """In order, without gaps that are not worth another request."""
    found: list[Span] = []
    for start, stop in sorted(spans):
        if found and start - found[-1][1] <= NEAR:
            found[-1] = found[-1][0], max(stop, found[-1][1])
        else:
            found.append((start, stop))
    return found


def _agree(at: int, block: bytes, known: Known) -> bool:
    start, data = known
    low, high = max(at, start), min(at + len(block), start + len(data))
    return low >= high or block[low - at : high - at] == data[low - start : high - start]
