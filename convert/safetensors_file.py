"""One safetensors file: its header, checked, and rows read on demand; knows no model.

Rows are read with ordinary reads, not through a memory map: a file that shrinks while it is being
read is then an error to report instead of a SIGBUS that ends the process.
"""

from __future__ import annotations

import math
import os
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from convert.json_text import parse
from portable.errors import CheckpointError, DiskError

MAX_HEADER = 100 << 20
ITEM_BYTES = {
    **dict.fromkeys(("F64", "I64", "U64", "C64"), 8),
    **dict.fromkeys(("F32", "I32", "U32"), 4),
    **dict.fromkeys(("F16", "BF16", "I16", "U16"), 2),
    **dict.fromkeys(("I8", "U8", "BOOL", "F8_E4M3", "F8_E5M2", "F8_E8M0"), 1),
}
Bytes = np.ndarray[Any, np.dtype[np.uint8]]
# Numbers of source rows and their values, float32 [rows, columns] -> what they are to be instead.
Change = Callable[[np.ndarray[Any, Any], np.ndarray[Any, Any]], np.ndarray[Any, Any]]


@dataclass(frozen=True)
class Stored:
    """A tensor's place in its file: `start` and `bytes` count from the beginning of the file.

    `change` is what its values go through as soon as they are float32, in any thread. `scale`
    holds a factor for each `block`, which is (rows, columns), of a tensor with too few bits.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    file: TensorFile
    start: int
    bytes: int
    change: Change | None = None
    scale: Stored | None = None
    block: tuple[int, int] = (1, 1)


class TensorFile:
    """A safetensors file, wherever its bytes are: `tensors` by name, from a header that is checked.

    A subclass says how bytes are read.
    """

    def __init__(self, name: str, size: int) -> None:
        self.name = name
        self.size = size
        self.tensors = {tensor.name: tensor for tensor in self._parse()}

    def read(self, start: int, count: int) -> Bytes:
        """Exactly `count` bytes at `start`."""
        raise NotImplementedError

    def close(self) -> None:
        """Lets go of what `read` needs."""

    @property
    def identity(self) -> bytes:
        """What tells its contents from all others: all of it, where nothing shorter does."""
        return self.read(0, self.size).tobytes()

    def unchanged(self) -> bool:
        """Whether the file is still what it was when its header was read."""
        return True

    def _bad(self, what: str, hint: str = "download this file again") -> CheckpointError:
        return CheckpointError(f"{self.name} {what}", hint=hint)

    def _parse(self) -> Iterator[Stored]:
        size = self.size
        head = self.read(0, min(size, 64)).tobytes()
        length = int.from_bytes(head[:8], "little")
        if size < 8 or not 2 <= length <= min(MAX_HEADER, size - 8):
            raise self._bad("is not a complete safetensors file")
        header = self._header(self.read(8, length).tobytes())
        data = 8 + length
        end = data
        for name, entry in header.items():
            if name != "__metadata__":
                tensor = self._tensor(name, entry, data)
                end = max(end, tensor.start + tensor.bytes)
                yield tensor
        if end > size:
            raise self._bad(f"is incomplete: {end - size} of {end} bytes are missing")
        if end < size:
            raise self._bad(f"has {size - end} bytes that no tensor owns")

    def _header(self, text: bytes) -> dict[str, Any]:
        def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
            if len({key for key, _ in pairs}) < len(pairs):
                raise self._bad("names a tensor twice in its header")
            return dict(pairs)

        try:
            header = parse(text.decode("utf-8"), unique)
        except ValueError as error:
            raise self._bad("has a header that is not JSON") from error
        if not isinstance(header, dict):
            raise self._bad("has a header that is not an object")
        return header

    def _tensor(self, name: str, entry: Any, data: int) -> Stored:
        try:
            dtype, shape, (begin, end) = (
                entry["dtype"],
                tuple(entry["shape"]),
                entry["data_offsets"],
            )
            whole = all(type(n) is int and n >= 0 for n in (*shape, begin, end))
            size = math.prod(shape) * ITEM_BYTES[dtype] if whole else -1
        except (KeyError, TypeError, ValueError) as error:
            raise self._bad(f"has a broken entry for {name!r}") from error
        if not whole or size != end - begin:
            raise self._bad(f"has a broken entry for {name!r}: size and shape disagree")
        return Stored(name, dtype, shape, self, data + begin, size)


class SafetensorsFile(TensorFile):
    """One on this disk. Opened once; `unchanged` compares size and time with the opening."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._reading = threading.Lock()
        if path.exists() and not path.is_file():
            raise CheckpointError(f"{path.name} is not an ordinary file")
        try:
            self._file: BinaryIO = path.open("rb", buffering=0)
        except OSError as error:
            raise CheckpointError(
                f"{path.name} cannot be opened: {error.strerror}",
                hint="download the checkpoint again",
            ) from error
        try:
            self._stamp = self._stat()
            super().__init__(path.name, self._stamp[0])
        except BaseException:
            self._file.close()
            raise

    def close(self) -> None:
        self._file.close()

    def unchanged(self) -> bool:
        return self._stat() == self._stamp

    def read(self, start: int, count: int) -> Bytes:
        """Exactly `count` bytes at `start`, in any thread."""
        out = np.empty(count, np.uint8)
        view, done = out.data, 0
        while done < count:
            got = self._read_into(view[done:], start + done)
            if not got:
                raise CheckpointError(
                    f"{self.name} became shorter while it was read",
                    hint="let the download end, then convert again",
                )
            done += got
        return out

    def _read_into(self, view: memoryview, start: int) -> int:
        try:
            with self._reading:
                self._file.seek(start)
                return self._file.readinto(view) or 0  # type: ignore[attr-defined]
        except OSError as error:
            raise DiskError(
                f"{self.path} cannot be read: {error.strerror}", hint="check the disk"
            ) from error

    def _stat(self) -> tuple[int, int]:
        stat = os.fstat(self._file.fileno())
        return stat.st_size, stat.st_mtime_ns
