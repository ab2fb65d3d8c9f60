"""The head of a GGUF file read back: its keys, and where each tensor lies; trusts no number in it.

Every count is held against the bytes that are left before anything is made of it, so a damaged file
costs no more memory than it is long.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from portable.gguf import ALIGNMENT, ARRAY, MAGIC, STRING

SCALARS = dict(enumerate(("u1", "i1", "<u2", "<i2", "<u4", "<i4", "<f4", "?")))
SCALARS |= {10: "<u8", 11: "<i8", 12: "<f8"}
MAX_DIMS = 4
Bytes = np.ndarray[Any, np.dtype[np.uint8]]


class Damaged(ValueError):
    """What is wrong with the file, in words that follow its name."""


@dataclass(frozen=True)
class Stored:
    """One tensor: `shape` as in a checkpoint, the row's length last; `start` is in the file."""

    name: str
    shape: tuple[int, ...]
    type: int
    start: int


@dataclass(frozen=True)
class Gguf:
    """Text as `str`, arrays of text as lists of it, arrays of numbers as numpy arrays."""

    keys: dict[str, Any]
    tensors: tuple[Stored, ...]
    data: Bytes

    def float32(self, tensor: Stored) -> np.ndarray[Any, np.dtype[np.float32]]:
        """An F32 tensor's values. Raises Damaged where the file ends before them."""
        size = 4
        for n in tensor.shape:
            size *= n
        end = tensor.start + size
        if tensor.type != 0 or end > len(self.data):
            raise Damaged(f"ends inside {tensor.name}" if tensor.type == 0 else "is not F32")
        return self.data[tensor.start : end].view("<f4").reshape(tensor.shape)


def read_gguf(path: Path) -> Gguf:
    """Raises Damaged, or OSError where the file cannot be opened."""
    if path.stat().st_size < len(MAGIC):
        raise Damaged("is too short")
    cursor = _Cursor(np.fromfile(path, np.uint8))
    if cursor.take(4).tobytes() != MAGIC:
        raise Damaged("is no GGUF file")
    version, tensors, keys = cursor.unpack("<IQQ")
    if version not in (2, 3):
        raise Damaged(f"has GGUF version {version}")
    found = {cursor.text(): cursor.value() for _ in range(cursor.checked(keys, 13))}
    alignment = found.get("general.alignment", ALIGNMENT)
    if not isinstance(alignment, int) or not 0 < alignment < 1 << 16:
        raise Damaged(f"has an alignment of {alignment}")
    infos = [cursor.tensor() for _ in range(cursor.checked(tensors, 24))]
    start = -(-cursor.at // alignment) * alignment
    placed = tuple(Stored(name, shape, kind, start + at) for name, shape, kind, at in infos)
    return Gguf(found, placed, cursor.data)


class _Cursor:
    def __init__(self, data: Bytes) -> None:
        self.data = data
        self.at = 0

    def take(self, size: int) -> Bytes:
        end = self.at + size
        if end > len(self.data):
            raise Damaged("ends inside its header")
        part = self.data[self.at : end]
        self.at = end
        return part

    def unpack(self, form: str) -> tuple[Any, ...]:
        return struct.unpack(form, self.take(struct.calcsize(form)).tobytes())

    def checked(self, count: int, size: int) -> int:
        """A count of things of at least `size` bytes each, which must still be in the file."""
        if count * size > len(self.data) - self.at:
            raise Damaged("ends inside its header")
        return count

    def text(self) -> str:
        (size,) = self.unpack("<Q")
        return self.take(size).tobytes().decode("utf-8", "replace")

    def value(self) -> Any:
        (kind,) = self.unpack("<I")
        if kind == STRING:
            return self.text()
        if kind == ARRAY:
            return self._array()
        return self._numbers(kind, 1)[0].item()

    def _array(self) -> Any:
        kind, count = self.unpack("<IQ")
        if kind == STRING:
            return [self.text() for _ in range(self.checked(count, 8))]
        return self._numbers(kind, count)

    def _numbers(self, kind: int, count: int) -> np.ndarray[Any, Any]:
        if kind not in SCALARS:
            raise Damaged(f"holds a value of type {kind}")
        form = np.dtype(SCALARS[kind])
        return self.take(count * form.itemsize).view(form)

    def tensor(self) -> tuple[str, tuple[int, ...], int, int]:
        name = self.text()
        (dims,) = self.unpack("<I")
        if not 1 <= dims <= MAX_DIMS:
            raise Damaged(f"says that {name} has {dims} dimensions")
        shape = self.unpack(f"<{dims}Q")
        kind, offset = self.unpack("<IQ")
        return name, shape[::-1], kind, offset
