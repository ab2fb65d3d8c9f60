"""llama.cpp's batch over arrays made once: filling it allocates nothing a token."""

from __future__ import annotations

import ctypes

import numpy as np

from portable.engine.native import lib
from portable.engine.sequence import Slice
from portable.errors import EngineError


class Batch:
    """At most `size` tokens, and outputs of `most_rows`; `struct` is what llama_decode takes."""

    def __init__(self, size: int, most_rows: int) -> None:
        self._most_rows = most_rows
        self._rows = 0
        self.token = np.zeros(size, np.int32)
        self.pos = np.zeros(size, np.int32)
        self.slot = np.zeros(size, np.int32)
        self.logits = np.zeros(size, np.int8)
        # n_seq_id 0 is a segmentation fault: every token has one sequence, set once and for all.
        self._one = np.ones(size, np.int32)
        self._slots = (self.slot.ctypes.data + 4 * np.arange(size)).astype(np.uintp)
        self.struct = lib.llama_batch()
        for name, array in (
            ("token", self.token),
            ("pos", self.pos),
            ("n_seq_id", self._one),
            ("seq_id", self._slots),
            ("logits", self.logits),
        ):
            pointer = type(getattr(self.struct, name))
            setattr(self.struct, name, ctypes.cast(array.ctypes.data, pointer))

    def clear(self) -> None:
        self.struct.n_tokens = self._rows = 0

    def append(self, slot: int, start: int, tokens: list[int], rows: int) -> None:
        """Lay the tokens of one slot behind the others; the last `rows` of them have an output."""
        begin = self.struct.n_tokens
        end = begin + len(tokens)
        if end > len(self.token):  # more than n_batch aborts the process
            raise EngineError(f"a step of more than {len(self.token)} tokens")
        self._rows += rows
        if self._rows > self._most_rows:  # more than n_outputs_max, too
            raise EngineError(f"a step of more than {self._most_rows} rows of logits")
        self.struct.n_tokens = end
        if len(tokens) == 1:  # most often, and numpy's slices cost more than that
            self.token[begin], self.pos[begin] = tokens[0], start
            self.slot[begin], self.logits[begin] = slot, rows
            return
        self.token[begin:end] = tokens
        self.pos[begin:end] = np.arange(start, start + len(tokens))
        self.slot[begin:end] = slot
        self.logits[begin:end] = 0
        self.logits[end - rows : end] = 1

    def fill(self, slices: list[Slice]) -> int:
        """Lay the slices end to end; returns how many rows of logits they ask for."""
        self.clear()
        for part in slices:
            self.append(part.sequence.slot, part.start, part.tokens, part.rows)
        return self._rows
