"""A finished file read again from the disk: its tensors' checksum, and whether they are sound."""

from __future__ import annotations

import hashlib
import os
import sys
from collections.abc import Callable, Iterator
from io import FileIO
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from convert.quantize import is_valid
from portable import gguf
from portable.errors import ModelFileError
from portable.tensortype import BY_ID, TensorType

CHUNK = 4 << 20


class Contents(NamedTuple):
    """SHA-256 of all after the head, and which tensors hold values that are no numbers."""

    sha256: str
    invalid: tuple[str, ...]


def read_tensors(path: Path, head: gguf.Head, progress: Callable[[int], None]) -> Contents:
    """`progress` is told how many bytes were read since it was last told. Raises ModelFileError."""
    total = path.stat().st_size - head.start
    digest, invalid, done = hashlib.sha256(), dict[str, None](), 0
    try:
        with path.open("rb", buffering=0) as file:
            if sys.platform == "linux":
                # The disk is asked, and not the system's memory of what was written.
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
            file.seek(head.start)
            for name, kind, data in _chunks(file, head, total):
                digest.update(data.data)
                if kind and not is_valid(kind, data):
                    invalid[name] = None
                done += data.nbytes
                progress(data.nbytes)
    except OSError as error:
        raise ModelFileError(f"{path} cannot be read: {error.strerror}") from error
    if done != total:
        raise ModelFileError(f"{path.name} changed while it was read")
    return Contents(digest.hexdigest(), tuple(invalid))


def _chunks(
    file: FileIO, head: gguf.Head, total: int
) -> Iterator[tuple[str, TensorType | None, np.ndarray[Any, Any]]]:
    """Whole blocks of a tensor of a type that we know, or, without a type, other bytes."""
    buffer = np.empty(CHUNK, np.uint8)
    at = 0
    for tensor in sorted(head.infos, key=lambda tensor: tensor.offset):
        kind = BY_ID.get(tensor.type)
        size = tensor.values // kind.block * kind.bytes if kind else 0
        if not at <= tensor.offset <= tensor.offset + size <= total:
            raise ModelFileError(f"{tensor.name} lies where other tensors are, or beyond the end")
        yield from (("", None, data) for data in _read(file, tensor.offset - at, 1, buffer))
        unit = kind.bytes if kind else 1
        yield from ((tensor.name, kind, data) for data in _read(file, size, unit, buffer))
        at = tensor.offset + size
    yield from (("", None, data) for data in _read(file, total - at, 1, buffer))


def _read(
    file: FileIO, size: int, unit: int, buffer: np.ndarray[Any, Any]
) -> Iterator[np.ndarray[Any, Any]]:
    """`size` bytes in views of the buffer, of whole units; fewer where the file ends."""
    step = len(buffer) // unit * unit
    for at in range(0, size, step):
        view, got = buffer[: min(step, size - at)], 0
        while got < len(view) and (count := file.readinto(view[got:].data)):
            got += count
        yield view[:got]
