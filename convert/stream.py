"""Tensors as a stream of quantized rows, in order, computed on all cores; knows no output file."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np

from convert.error import Error
from convert.gguf_file import Info
from convert.imatrix import Entry
from convert.part import Floats, Part
from convert.quantize import quantize_rows
from portable.errors import CheckpointError

# A chunk's float32 form should stay in the processor's cache.
CHUNK_VALUES = 1 << 20
Rows = np.ndarray[Any, Any]


@dataclass(frozen=True, eq=False)
class Job:
    """One tensor: what it becomes, and the `parts` or the `values` that it is made of.

    `importance` is its entry in an importance matrix; in `error` it is measured what quantization
    does to it.
    """

    info: Info
    parts: tuple[Part, ...] = ()
    values: Rows | None = None
    importance: Entry | None = None
    error: Error | None = None

    @property
    def kept(self) -> bool:
        """Whether it is stored as the GGUF has it, so that nothing is computed."""
        return bool(self.parts) and all(part.is_packed for part in self.parts)

    @property
    def source_bytes(self) -> int:
        return sum(part.source_bytes(part.rows) for part in self.parts)

    @property
    def pieces(self) -> Iterator[Piece]:
        """What is computed on its own, in the tensor's order."""
        if not self.parts:
            yield Piece(self, None, 0)
        offset = 0
        for part in self.parts:
            yield Piece(self, part, offset)
            offset += part.rows * part.columns // self.info.type.block * self.info.type.bytes


@dataclass(frozen=True, eq=False)
class Piece:
    """One part of a tensor, or all its values, which begins `offset` bytes into it."""

    job: Job
    part: Part | None
    offset: int


@dataclass(frozen=True, eq=False)
class Chunk:
    """Finished rows, which begin `offset` bytes into their tensor.

    `source_bytes` is how much of the checkpoint they stand for; `ends` says that their piece is
    complete with them.
    """

    job: Job
    data: Rows
    offset: int
    source_bytes: int
    ends: bool

    @property
    def last(self) -> bool:
        return self.offset + self.data.nbytes == self.job.info.bytes


@dataclass(frozen=True, eq=False)
class Work:
    """A chunk that is not computed yet; `run` may be called in any thread."""

    job: Job
    source: str
    offset: int
    source_bytes: int
    ends: bool
    run: Callable[[], Rows]


def chunks(pieces: Iterable[Piece], threads: int) -> Iterator[Chunk]:
    """Reads in this thread, computes in `threads` others, yields in order with few in flight."""
    pending: deque[tuple[Work, Future[Rows]]] = deque()
    pool = ThreadPoolExecutor(threads, thread_name_prefix="quantize")
    try:
        for piece in pieces:
            for work in _works(piece):
                pending.append((work, pool.submit(work.run)))
                while len(pending) > 2 * threads or (pending and pending[0][1].done()):
                    yield _finished(*pending.popleft())
        while pending:
            yield _finished(*pending.popleft())
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _finished(work: Work, future: Future[Rows]) -> Chunk:
    try:
        return Chunk(work.job, future.result(), work.offset, work.source_bytes, work.ends)
    except CheckpointError as error:
        raise CheckpointError(
            f"tensor {work.source} holds {error.message}",
            hint="the file is damaged, or the model needs BF16 or F32: download it again",
        ) from error


def _works(piece: Piece) -> Iterator[Work]:
    job, part, offset = piece.job, piece.part, piece.offset
    if part is None:
        values = np.ascontiguousarray(job.values, np.float32).view(np.uint8).reshape(-1)
        yield Work(job, job.info.name, 0, 0, True, lambda: values)
        return
    for first, count in slices(part):
        yield _work(job, part, first, count, offset)
        offset += count * part.columns // job.info.type.block * job.info.type.bytes


def slices(part: Part) -> Iterator[tuple[int, int]]:
    """(first row, number of rows) of each chunk."""
    step = part.rows if part.whole else max(1, CHUNK_VALUES // part.columns)
    for first in range(0, part.rows, step):
        yield first, min(step, part.rows - first)


def _work(job: Job, part: Part, first: int, count: int, offset: int) -> Work:
    low, raw = part.read(first, count)

    def run() -> Rows:
        if part.is_packed:
            return part.packed(first, count, low, raw)
        values = part.values(first, count, low, raw)
        rows = _quantized(job, values, offset)
        if job.error:
            job.error.add(values, rows, job.info.type)
        return rows

    source = f"{part.stored.name} in {part.stored.file.name}"
    ends = first + count == part.rows
    return Work(job, source, offset, part.source_bytes(count), ends, run)


def _quantized(job: Job, values: Floats, offset: int) -> Rows:
    """The rows that begin `offset` bytes into their tensor; each expert has weights of its own."""
    kind = job.info.type
    if job.importance is None:
        return quantize_rows(values, kind)
    *experts, height, columns = job.info.shape
    row = offset // kind.row_bytes(columns)
    out = []
    while len(values):
        expert, below = divmod(row, height)
        weights = job.importance.weights(expert, math.prod(experts))
        out.append(quantize_rows(values[: height - below], kind, weights))
        row, values = row + height - below, values[height - below :]
    return np.concatenate(out)
