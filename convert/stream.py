"""Tensors as a stream of quantized rows, in order, computed on all cores; knows no output file."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np

from convert.gguf_file import Info
from convert.quantize import SOURCE_BYTES, quantize_rows
from convert.safetensors_file import Stored
from portable.errors import CheckpointError

# A chunk's float32 form should stay in the processor's cache.
CHUNK_VALUES = 1 << 20
Rows = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Job:
    """One tensor: where it is read, or its `values`, and what it becomes."""

    info: Info
    stored: Stored | None = None
    turn: int = 0
    values: Rows | None = None

    @property
    def source_bytes(self) -> int:
        return self.stored.bytes if self.stored else 0


@dataclass(frozen=True)
class Chunk:
    """Finished rows of a tensor; `source_bytes` is how much of the checkpoint they came from."""

    job: Job
    data: Rows
    source_bytes: int
    last: bool


def chunks(jobs: list[Job], threads: int) -> Iterator[Chunk]:
    """Reads in this thread, computes in `threads` others, yields in order with few in flight."""
    pending: deque[tuple[Job, Future[Rows], int, bool]] = deque()
    pool = ThreadPoolExecutor(threads, thread_name_prefix="quantize")
    try:
        for job in jobs:
            for work, count, last in _parts(job):
                pending.append((job, pool.submit(work), count, last))
                while len(pending) > 2 * threads:
                    yield _finished(pending)
        while pending:
            yield _finished(pending)
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _finished(pending: deque[tuple[Job, Future[Rows], int, bool]]) -> Chunk:
    job, future, count, last = pending.popleft()
    try:
        return Chunk(job, future.result(), count, last)
    except CheckpointError as error:
        source = job.stored.name if job.stored else job.info.name
        file = job.stored.file.path.name if job.stored else "config.json"
        raise CheckpointError(
            f"tensor {source} in {file} holds {error.message}",
            hint="the file is damaged, or the model needs BF16 or F32: download it again",
        ) from error


def _parts(job: Job) -> Iterator[tuple[Callable[[], Rows], int, bool]]:
    """The pieces of work of a tensor: function, source bytes, whether it is the last."""
    if job.stored is None:
        values = np.ascontiguousarray(job.values, np.float32).view(np.uint8)
        yield lambda: values, 0, True
        return
    stored = job.stored
    # A vector in rotary order is a column of rows with one value each.
    columns = stored.shape[-1] if len(stored.shape) > 1 or not job.turn else 1
    row_bytes = columns * SOURCE_BYTES[stored.dtype]
    rows = stored.bytes // row_bytes
    step = chunk_rows(columns, job.turn)
    for first in range(0, rows, step):
        count = min(step, rows - first)
        raw = stored.file.read(stored.start + first * row_bytes, count * row_bytes)
        yield _work(job, raw, columns), raw.nbytes, first + count == rows


def chunk_rows(columns: int, turn: int) -> int:
    """Rows of a chunk: whole heads where their rows change places."""
    rows = max(1, CHUNK_VALUES // columns)
    return math.ceil(rows / turn) * turn if turn else rows


def _work(job: Job, raw: Rows, columns: int) -> Callable[[], Rows]:
    assert job.stored is not None
    dtype, turn, kind = job.stored.dtype, job.turn, job.info.type

    def work() -> Rows:
        rows = turned(raw, turn, columns * SOURCE_BYTES[dtype]) if turn else raw
        return quantize_rows(rows, dtype, kind, columns)

    return work


def turned(raw: Rows, head: int, row_bytes: int) -> Rows:
    """Each head's two halves of rows interleaved: llama.cpp's rotary order."""
    heads = raw.reshape(-1, 2, head // 2, row_bytes)
    return np.ascontiguousarray(heads.swapaxes(1, 2)).reshape(-1)
