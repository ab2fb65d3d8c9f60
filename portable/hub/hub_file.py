"""One file of a hub as bytes on demand: a part of it, or all of it in order; stores nothing.

A connection that is cut or stalls is made again where it ended. Whether the bytes are the right
ones is for the reader to check, who sees all of them: `sha256` is what the hub says.
"""

from __future__ import annotations

import re
import time
from collections.abc import Generator
from typing import NamedTuple

from portable.errors import NetworkError
from portable.hub.base import Answer, Hub
from portable.hub.names import Listing, RemoteFile

TRIES = 5  # connections in a row that bring no byte
PAUSE_SECONDS = 8.0  # at most, between two of them


class HubFile(NamedTuple):
    """`read` and `blocks` raise NetworkError when the hub cannot be reached for a while."""

    hub: Hub
    listing: Listing
    file: RemoteFile

    @property
    def name(self) -> str:
        return self.file.path

    @property
    def size(self) -> int:
        return self.file.size

    @property
    def sha256(self) -> str:
        return self.file.sha256 or ""

    def read(self, start: int, count: int) -> bytes:
        """Exactly these bytes, in a request of their own."""
        return b"".join(self._blocks(start, start + count))

    def blocks(self, start: int) -> Generator[bytes]:
        """All bytes from `start` to the end of the file, in pieces as they arrive."""
        return self._blocks(start, self.size)

    def _blocks(self, start: int, stop: int) -> Generator[bytes]:
        tries = 0
        while start < stop:
            try:
                for block in self._connection(start, stop):
                    start += len(block)
                    tries = 0
                    yield block
            except NetworkError:
                tries += 1
                if tries == TRIES:
                    raise
                time.sleep(min(2.0 ** (tries - 1), PAUSE_SECONDS))

    def _connection(self, start: int, stop: int) -> Generator[bytes]:
        """What one connection brings of these bytes; NetworkError when that is not all."""
        at = start
        with (
            self.hub.explained(self.listing.repo, self.listing.revision),
            self.hub.request(self.listing, self.file, start, stop) as answer,
        ):
            skip = self._before(answer, start)
            for data in answer.blocks:
                block, skip = data[skip : skip + stop - at], max(0, skip - len(data))
                if block:
                    at += len(block)
                    yield block
                if at == stop:
                    return
        raise self._wrong(f"ends after {at} bytes")

    def _before(self, answer: Answer, start: int) -> int:
        """How many bytes come before `start`: all of them from a server that knows no ranges."""
        if answer.status != 206:
            return start
        match = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", answer.content_range)
        if not match or int(match[1]) != start or match[2] not in ("*", str(self.size)):
            raise self._wrong(f"answers {answer.content_range!r} for bytes from {start}")
        return 0

    def _wrong(self, what: str) -> NetworkError:
        name = f"{self.name} of {self.listing.repo}"
        return NetworkError(
            f"{self.hub.host} {what}, of {self.size} of {name}", hint="try again later"
        )
