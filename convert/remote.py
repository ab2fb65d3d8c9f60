"""A safetensors file that is not on this disk: its header by itself, its tensors as they pass.

Knows no hub: whoever calls brings files with the few methods of `Remote`.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from typing import Protocol

import numpy as np

from convert.safetensors_file import Bytes, TensorFile
from convert.sha256 import sha256
from convert.window import Span, Window
from portable.errors import CheckpointError


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
    """`tensors` are known from the beginning; `read` reads them while the file is `passing`."""

    def __init__(self, remote: Remote) -> None:
        self.remote = remote
        self._window: Window | None = None
        self._front = b""
        try:
            super().__init__(remote.name, remote.size)
        except CheckpointError:  # what came may be wrong, and not what lies there
            super().__init__(remote.name, remote.size)

    @property
    def identity(self) -> bytes:
        return self.remote.sha256.encode() + self._front

    def read(self, start: int, count: int) -> Bytes:
        """As planned in `passing`; before that, the header by requests of its own."""
        if self._window:
            return self._window.read(start, count)
        data = self.remote.read(start, count)
        self._front = self._front[:start] + data
        return np.frombuffer(data, np.uint8)

    @contextmanager
    def passing(
        self, reads: Sequence[Span], marks: Iterable[int], position: int, state: str | None
    ) -> Iterator[Window]:
        """Lets the bytes from `position` on pass, where the digest's state was `state`."""
        header = [(0, len(self._front))] if position == 0 else []
        digest = sha256(position, state)
        blocks = self.remote.blocks(position)
        with closing(Window(blocks, position, digest, [*header, *reads], marks)) as self._window:
            try:
                if header and self._window.read(*header[0]).tobytes() != self._front:
                    raise Damaged(self, "another header than before")
                yield self._window
            finally:
                self._window = None

    def check(self, tell: Callable[[int], None]) -> None:
        """Waits for the rest of the bytes; Damaged when they are not the right ones."""
        assert self._window, "passing"
        got = self._window.finish(tell)
        if got != self.remote.sha256:
            raise Damaged(self, got)
