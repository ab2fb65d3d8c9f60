"""SHA-256 whose state can be kept: a stream that stops goes on later without its earlier bytes.

hashlib cannot save a digest, so this calls the functions of OpenSSL that hashlib itself is linked
with. Where they are not to be had, or fail a test with a known answer, `saved` is None, and whoever
resumes has to hash from the first byte on.
"""

from __future__ import annotations

import ctypes
import ctypes.util
import hashlib
import struct
import sys
from functools import cache
from typing import Any, Protocol

BLOCK = 64
_WORDS = struct.Struct(">8I")


class Digest(Protocol):
    def update(self, data: bytes, /) -> None: ...
    def hexdigest(self) -> str: ...


class _Context(ctypes.Structure):
    """SHA256_CTX of openssl/sha.h: `h` is the whole state wherever a block of 64 bytes ends."""

    _fields_ = (
        ("h", ctypes.c_uint32 * 8),
        ("low", ctypes.c_uint32),
        ("high", ctypes.c_uint32),
        ("data", ctypes.c_uint32 * 16),
        ("number", ctypes.c_uint),
        ("length", ctypes.c_uint),
    )


class _Kept:
    """A digest after `position` bytes, a multiple of 64, whose chaining value was `state`."""

    def __init__(self, library: Any, position: int = 0, state: str = "") -> None:
        self._library = library
        self._context = _Context()
        library.SHA256_Init(ctypes.byref(self._context))
        if state:
            self._context.h[:] = _WORDS.unpack(bytes.fromhex(state))
            self._context.low = position << 3 & 0xFFFFFFFF
            self._context.high = position >> 29 & 0xFFFFFFFF

    def update(self, data: bytes) -> None:
        self._library.SHA256_Update(ctypes.byref(self._context), data, len(data))

    def hexdigest(self) -> str:
        out = ctypes.create_string_buffer(32)
        copy = _Context.from_buffer_copy(self._context)
        self._library.SHA256_Final(out, ctypes.byref(copy))
        return out.raw.hex()

    @property
    def state(self) -> str:
        return _WORDS.pack(*self._context.h).hex()


def sha256(position: int = 0, state: str | None = None) -> Digest:
    """A digest that has seen `position` bytes; `state` is what `saved` gave then."""
    lib = library()
    if lib is None:
        assert not position, "nothing was saved without the library"
        return hashlib.sha256()
    return _Kept(lib, position, state or "")


def saved(digest: Digest) -> str | None:
    """The state of a digest that has seen a multiple of 64 bytes; None where it cannot be kept."""
    return digest.state if isinstance(digest, _Kept) else None


@cache
def library() -> Any:
    """OpenSSL with the three functions, tested; None without."""
    linked = getattr(sys.modules.get("_hashlib"), "__file__", None)
    for path in (linked, ctypes.util.find_library("crypto")):
        try:
            found = ctypes.CDLL(path) if path else None
            if found and _knows_the_answer(_typed(found)):
                return found
        except (OSError, AttributeError):
            continue
    return None


def _typed(found: Any) -> Any:
    pointer = ctypes.c_void_p
    found.SHA256_Init.argtypes = [pointer]
    found.SHA256_Update.argtypes = [pointer, pointer, ctypes.c_size_t]
    found.SHA256_Final.argtypes = [pointer, pointer]
    return found


def _knows_the_answer(found: Any) -> bool:
    """Whether a digest that is saved and restored on the way ends where hashlib's does."""
    text = bytes(range(251)) * 3
    first = _Kept(found)
    first.update(text[: 5 * BLOCK])
    second = _Kept(found, 5 * BLOCK, first.state)
    second.update(text[5 * BLOCK :])
    return second.hexdigest() == hashlib.sha256(text).hexdigest()
