"""Rows of a checkpoint on their way into a GGUF; knows no name, no type and no thread."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from convert import mxfp4
from convert.quantize import SOURCE_BYTES, to_float32
from convert.safetensors_file import Bytes, Stored

Floats = np.ndarray[Any, np.dtype[np.float32]]
Integers = np.ndarray[Any, np.dtype[np.int64]]
Map = Callable[[Floats], Floats]


@dataclass(frozen=True, eq=False)
class Part:
    """Consecutive rows of a GGUF's tensor, made of one tensor of the checkpoint.

    `shape` is what the part looks like in the GGUF. `pick[n]` is the row of `stored` that becomes
    row n; without it they come as they are. `map` gets float32 values, [rows, columns], and gives
    what is to be written: some rows at a time, or the `whole` tensor where it changes the shape.
    """

    stored: Stored
    shape: tuple[int, ...]
    pick: Integers | None = None
    map: Map | None = None
    whole: bool = False

    @property
    def columns(self) -> int:
        """Values of a row; a vector whose order changes is a column of rows with one value."""
        return 1 if self._is_column else self.shape[-1]

    @property
    def rows(self) -> int:
        return math.prod(self.shape) // self.columns

    @property
    def source_columns(self) -> int:
        return 1 if self._is_column else self.stored.shape[-1]

    @property
    def _is_column(self) -> bool:
        return self.pick is not None and len(self.stored.shape) == 1

    @property
    def is_packed(self) -> bool:
        """Whether these are 4-bit blocks, which stay as they are."""
        return self.stored.dtype == mxfp4.NAME

    def source_bytes(self, rows: int) -> int:
        """How much of the checkpoint `rows` rows stand for: what a progress bar adds up."""
        if self.whole:
            return self.stored.bytes
        return rows * self._row_bytes

    @property
    def _row_bytes(self) -> int:
        if self.is_packed:
            return self.source_columns // 2
        return self.source_columns * SOURCE_BYTES[self.stored.dtype]

    def read(self, first: int, count: int) -> tuple[int, np.ndarray[Any, Any]]:
        """The bytes that `values` needs for these rows, and the source row they begin with."""
        low, start, stop = self.span(first, count)
        return low, self.stored.file.read(start, stop - start)

    def span(self, first: int, count: int) -> tuple[int, int, int]:
        """What `read` reads: its first source row, and where its bytes lie in the file."""
        low, high = first, first + count
        if self.whole:
            low, high = 0, math.prod(self.stored.shape) // self.source_columns
        elif self.pick is not None:
            picked = self.pick[first : first + count]
            low, high = int(picked.min()), int(picked.max()) + 1
        start = self.stored.start
        return low, start + low * self._row_bytes, start + high * self._row_bytes

    def values(self, first: int, count: int, low: int, raw: np.ndarray[Any, Any]) -> Floats:
        """Rows as float32, [count, columns], valid until this thread's next call."""
        raw = self._picked(first, count, low, raw)
        # Before the values, which lie where the scales would be made.
        scales = self._scales()
        found = to_float32(raw, self.stored.dtype).reshape(-1, self.source_columns)
        numbers = self._numbers(first, len(found), low)
        if scales is not None:
            found = found * self._spread(scales[numbers // self.stored.block[0]])
        if self.stored.change is not None:
            found = self.stored.change(numbers, found)
        if self.map is not None:
            found = self.map(found)
        return np.ascontiguousarray(found, np.float32).reshape(count, self.columns)

    def packed(self, first: int, count: int, low: int, raw: np.ndarray[Any, Any]) -> Bytes:
        """Rows of 4-bit blocks as a GGUF has them."""
        raw, scale = self._picked(first, count, low, raw), self.stored.scale
        assert scale, "blocks come with exponents"
        numbers, blocks = self._numbers(first, count, low), scale.shape[-1]
        above, below = int(numbers.min()), int(numbers.max()) + 1
        found = scale.file.read(scale.start + above * blocks, (below - above) * blocks)
        return mxfp4.packed(raw, found.reshape(-1, blocks)[numbers - above])

    def _picked(self, first: int, count: int, low: int, raw: Bytes) -> Bytes:
        """The bytes of the rows that become the part's, out of those that were read."""
        if self.pick is None or self.whole:
            return raw
        rows = self.pick[first : first + count] - low
        return raw.reshape(-1, self._row_bytes)[rows].reshape(-1)

    def _scales(self) -> Floats | None:
        """A row of scales for each row of blocks; few beside the values, so read as a whole."""
        scale = self.stored.scale
        if scale is None:
            return None
        found = to_float32(scale.file.read(scale.start, scale.bytes), scale.dtype)
        return found.reshape(-1, scale.shape[-1] if scale.shape else 1).copy()

    def _spread(self, scales: Floats) -> Floats:
        """A scale for each column."""
        return np.repeat(scales, self.stored.block[1], axis=1)[:, : self.source_columns]

    def _numbers(self, first: int, count: int, low: int) -> Integers:
        """The rows of `stored` that `values` was given."""
        if self.pick is not None and not self.whole:
            return self.pick[first : first + count]
        return np.arange(low, low + count)
