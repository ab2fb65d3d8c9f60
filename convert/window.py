"""The bytes of a file while they pass, each held until nothing needs it any more; knows no hub.

A thread of its own receives and hashes, so that network, computing and disk work side by side.
Everything that will be read is known at the beginning: that says what can be let go of. So a tensor
that becomes one other is held by a few rows, and one that becomes several as a whole.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import closing
from itertools import accumulate

import numpy as np

from convert.safetensors_file import Bytes
from convert.sha256 import Digest, saved

AHEAD = 48 << 20  # bytes that are received before anybody asks for them
Span = tuple[int, int]  # first byte, and the one after the last


class Window:
    """`read` the spans of `reads` in their order, out of the file's bytes from `start` on.

    `digest` has seen the bytes before `start` already. Its state is kept in `states` at each of
    the `marks`, multiples of 64.
    """

    def __init__(
        self,
        blocks: Generator[bytes],
        start: int,
        digest: Digest,
        reads: Sequence[Span],
        marks: Iterable[int] = (),
    ) -> None:
        self._blocks, self._digest = blocks, digest
        self._reads = deque(reads)
        lowest = accumulate((first for first, _ in reversed(reads)), min)
        self._floors = deque(reversed(list(lowest)))
        self._marks = deque(sorted({mark for mark in marks if mark >= start}))
        self.states: dict[int, str | None] = {}
        self._held: deque[tuple[int, bytes]] = deque()
        self.end = start
        self._wanted = 0
        self._complete = self._closed = False
        self._error: BaseException | None = None
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._receive, name="receive", daemon=True)
        self._thread.start()

    def read(self, start: int, count: int) -> Bytes:
        """The next of the planned reads; raises what the receiving of its bytes raised."""
        stop = start + count
        if self._reads.popleft() != (start, stop):
            raise AssertionError("not the read that was planned")
        out = np.empty(count, np.uint8)
        with self._changed:
            self._wanted = stop
            self._changed.notify_all()
            while self.end < stop:
                self._wait_a_moment()
            for at, block in self._held:
                if at < stop and at + len(block) > start:
                    low, high = max(at, start), min(at + len(block), stop)
                    out[low - start : high - start] = memoryview(block)[low - at : high - at]
            self._floors.popleft()
            self._drop()
            self._changed.notify_all()
        return out

    def finish(self, tell: Callable[[int], None]) -> str:
        """The digest of the whole file, once the rest has passed; `tell` hears how far it is."""
        with self._changed:
            self._reads.clear()
            self._floors.clear()
            self._drop()
            self._changed.notify_all()
            while not self._complete:
                self._wait_a_moment()
                tell(self.end)
        return self._digest.hexdigest()

    def close(self) -> None:
        """Receives no more. A thread that waits for the network ends when that answers."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        self._thread.join(1.0)

    def _wait_a_moment(self) -> None:
        if self._error:
            raise self._error
        # With a limit, because Windows delivers no Ctrl-C to a wait without one.
        self._changed.wait(0.5)

    def _receive(self) -> None:
        try:
            with closing(self._blocks):
                for block in self._blocks:
                    self._hash(block)
                    self._hold(block)
                    if self._closed:
                        return
            self._complete = True
        except BaseException as error:
            self._error = error
        with self._changed:
            self._changed.notify_all()

    def _hold(self, block: bytes) -> None:
        with self._changed:
            self._held.append((self.end, block))
            self.end += len(block)
            self._drop()
            self._changed.notify_all()
            while not self._closed and self._is_ahead():
                self._changed.wait()

    def _is_ahead(self) -> bool:
        floor = self._floors[0] if self._floors else self.end
        return self.end >= self._wanted and self.end - floor >= AHEAD

    def _hash(self, block: bytes) -> None:
        """The digest is this thread's, and `end` is moved by nobody else."""
        at = 0
        while self._marks and self._marks[0] - self.end <= len(block):
            mark = self._marks.popleft()
            self._digest.update(block[at : mark - self.end])
            at = mark - self.end
            self.states[mark] = saved(self._digest)
        self._digest.update(block[at:])

    def _drop(self) -> None:
        floor = self._floors[0] if self._floors else self.end
        while self._held and self._held[0][0] + len(self._held[0][1]) <= floor:
            self._held.popleft()
