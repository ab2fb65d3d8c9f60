"""Heads of GGUF files on a hub: of one file all of it, of its like only what differs.

Most of a head is the vocabulary, megabytes that all quantizations of a model have alike.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence

from portable import gguf
from portable.errors import ModelFileError
from portable.hub import HubFile

# Bytes. Keys before the tensors differ in some texts only, such as the name of a matrix.
_SLACK = 1 << 14
# What may lie behind the last tensor.
_PADDING = 1 << 16


def whole(file: HubFile) -> tuple[gguf.Head, bytes]:
    """The head and its bytes. Raises ModelFileError and NetworkError."""
    stream = _Stream(file)
    head = gguf.parse(stream, file.size, file.name)
    return head, bytes(stream.data[: head.start])


def like(file: HubFile, first: gguf.Head, front: bytes) -> gguf.Head:
    """The head of a file whose keys are those of `first`, which begins with `front`.

    Raises ModelFileError and NetworkError.
    """
    name = first.infos[0].name.encode()
    marker = struct.pack("<Q", len(name)) + name
    expected = front.index(marker)
    begin = max(0, expected - _SLACK)
    stop = min(file.size, first.start + _SLACK)
    data = file.read(begin, stop - begin) if begin < stop else b""
    at = data.find(marker)
    if at >= 0:
        try:
            infos, length = gguf.parse_tensors(data[at:], first.tensors)
            step = first.keys.get("general.alignment", gguf.ALIGNMENT)
            start = -(-(begin + at + length) // step) * step
            if 0 <= file.size - start - _data(infos) < _PADDING:
                return gguf.Head(first.keys, infos, start)
        except ModelFileError:
            pass  # another file than it seems: all of its head is read
    return whole(file)[0]


def _data(infos: Sequence[gguf.Tensor]) -> int:
    return max(info.offset + info.bytes for info in infos)


class _Stream:
    """The file from its beginning, a piece each time it is asked, and kept."""

    def __init__(self, file: HubFile) -> None:
        self._file = file
        self.data = bytearray()

    def read(self, count: int, /) -> bytes:
        begin = len(self.data)
        block = self._file.read(begin, min(count, self._file.size - begin))
        self.data += block
        return block
