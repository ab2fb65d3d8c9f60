"""The head of a GGUF file as bytes: key-values, then where each tensor lies; writes no file."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from portable.gguf import ALIGNMENT, ARRAY, MAGIC, STRING
from portable.tensortype import TensorType

VERSION = 3
SCALARS = {
    "uint8": (0, "<B"),
    "uint32": (4, "<I"),
    "int32": (5, "<i"),
    "float32": (6, "<f"),
    "bool": (7, "<?"),
    "uint64": (10, "<Q"),
}

# A key's kind and value: a name of SCALARS, "string", or one of them in the plural for a list.
KeyValues = dict[str, tuple[str, Any]]


@dataclass(frozen=True)
class Info:
    """One tensor: `shape` as in the checkpoint, the row's length last."""

    name: str
    shape: tuple[int, ...]
    type: TensorType

    @property
    def bytes(self) -> int:
        rows = 1
        for n in self.shape[:-1]:
            rows *= n
        return rows * self.type.row_bytes(self.shape[-1])


def padded(size: int) -> int:
    return -(-size // ALIGNMENT) * ALIGNMENT


def data_size(infos: Iterable[Info]) -> int:
    return sum(padded(info.bytes) for info in infos)


def head(keys: Mapping[str, tuple[str, Any]], infos: Sequence[Info]) -> bytes:
    """Everything before the tensor data, padded to the alignment."""
    out = _head(keys, infos)
    return bytes(out.ljust(padded(len(out)), b"\0"))


def head_size(keys: Mapping[str, tuple[str, Any]], infos: Sequence[Info]) -> int:
    """Bytes of `head` without its padding."""
    return len(_head(keys, infos))


def _head(keys: Mapping[str, tuple[str, Any]], infos: Sequence[Info]) -> bytearray:
    out = bytearray(MAGIC + struct.pack("<IQQ", VERSION, len(infos), len(keys)))
    for key, (kind, value) in keys.items():
        out += _string(key) + _value(kind, value)
    offset = 0
    for info in infos:
        dims = info.shape[::-1]
        out += _string(info.name) + struct.pack("<I", len(dims))
        out += struct.pack(f"<{len(dims)}QIQ", *dims, info.type.id, offset)
        offset += padded(info.bytes)
    return out


def storable(kind: str, value: Any) -> bool:
    """Whether `head` can write this value; text may hold what no encoding has."""
    try:
        return bool(_value(kind, value))
    except (struct.error, TypeError, AttributeError, ValueError, OverflowError):
        return False


def _string(text: str | bytes) -> bytes:
    data = text.encode("utf-8") if isinstance(text, str) else text
    return struct.pack("<Q", len(data)) + data


def _value(kind: str, value: Any) -> bytes:
    if kind == "string":
        return struct.pack("<I", STRING) + _string(value)
    if kind == "strings":
        items = b"".join(map(_string, value))
        return struct.pack("<IIQ", ARRAY, STRING, len(value)) + items
    if kind.endswith("s"):
        number, form = SCALARS[kind[:-1]]
        data = struct.pack(f"<{len(value)}{form[1]}", *value)
        return struct.pack("<IIQ", ARRAY, number, len(value)) + data
    number, form = SCALARS[kind]
    return struct.pack("<I", number) + struct.pack(form, value)
