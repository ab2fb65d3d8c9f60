"""One saved state as a file: nothing of it is believed before its checksum was seen.

     8  magic and version of this format
    32  SHA-256 of the rest of the head
    32  identity: what the state depends on
    32  SHA-256 of the state
     8  bytes of the state
     4  number of tokens
   4 n  the tokens
     …  the state, as the backend wrote it

All numbers are little-endian.
"""

from __future__ import annotations

import hashlib
import os
import struct
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import numpy as np

if TYPE_CHECKING:
    from portable.engine.backend import State


MAGIC = b"PORTKV\0\1"
SUFFIX, PARTIAL = ".prompt", ".partial"
_HEAD = struct.Struct("<8s32s32s32sQI")
_DIGEST = 32
_CHECKED = len(MAGIC) + _DIGEST  # what follows is under the head's checksum


class Damaged(Exception):
    """The file is not what was written, or was written for something else."""


@dataclass(frozen=True, slots=True)
class Head:
    tokens: list[int]
    digest: bytes
    size: int


def name_of(identity: bytes, tokens: list[int]) -> str:
    """The same tokens of the same model have one file, whoever saves them."""
    return prefix_of(identity) + _hash(_packed(tokens)).hex()[:16] + SUFFIX


def head_size(count: int) -> int:
    """Bytes of a file beside its state of `count` tokens."""
    return _HEAD.size + 4 * count


def prefix_of(identity: bytes) -> str:
    """How the files of one identity begin."""
    return identity.hex()[:16] + "-"


def write(path: Path, identity: bytes, tokens: list[int], state: State, used: float) -> None:
    """The whole file under its name, or nothing; `used` is its time. Raises OSError.

    Nobody waits for the disk: what a power cut leaves is refused by its checksum.
    """
    packed = _packed(tokens)
    rest = identity + _hash(state.data) + struct.pack("<QI", state.nbytes, len(tokens)) + packed
    with tempfile.NamedTemporaryFile(
        dir=path.parent, prefix=".", suffix=PARTIAL, delete=False
    ) as file:
        try:
            file.write(MAGIC + _hash(rest) + rest)
            file.write(state.data)
            file.close()
            os.utime(file.name, (used, used))
            Path(file.name).replace(path)
        except BaseException:
            Path(file.name).unlink(missing_ok=True)
            raise


def read_head(path: Path, identity: bytes) -> Head:
    """Raises Damaged and OSError."""
    with path.open("rb") as file:
        return _head(file, identity)


def read(path: Path, identity: bytes) -> State:
    """The state, verified. Raises Damaged and OSError."""
    with path.open("rb") as file:
        head = _head(file, identity)
        state = np.empty(head.size, np.uint8)
        if file.readinto(state.data) != head.size or _hash(state.data) != head.digest:
            raise Damaged("the state is not what was written")
    return state


def _head(file: BinaryIO, identity: bytes) -> Head:
    data = file.read(_HEAD.size)
    if len(data) < _HEAD.size:
        raise Damaged("the file is cut off")
    magic, checksum, whose, digest, size, count = _HEAD.unpack(data)
    if magic != MAGIC or whose != identity:
        raise Damaged("the file is of another format or model")
    if head_size(count) + size != os.fstat(file.fileno()).st_size:
        raise Damaged("the file is cut off")
    packed = file.read(4 * count)
    if _hash(data[_CHECKED:] + packed) != checksum:
        raise Damaged("the head is not what was written")
    return Head(np.frombuffer(packed, "<i4").tolist(), digest, size)


def _packed(tokens: list[int]) -> bytes:
    return np.array(tokens, "<i4").tobytes()


def _hash(data: bytes | memoryview) -> bytes:
    return hashlib.sha256(data).digest()
