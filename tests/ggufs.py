"""Reads a GGUF file for comparisons: keys, tensors and their bytes; independent of the writer."""

from __future__ import annotations

import hashlib
import struct
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from portable.tensortype import TYPES

SCALARS = {
    0: "B",
    1: "b",
    2: "H",
    3: "h",
    4: "I",
    5: "i",
    6: "f",
    7: "?",
    10: "Q",
    11: "q",
    12: "d",
}
BY_ID = {kind.id: kind for kind in TYPES.values()}


class Tensor(NamedTuple):
    shape: tuple[int, ...]
    type: str
    data: bytes


class Gguf:
    """`keys`: (type number, value), text as bytes; `tensors` in file order."""

    def __init__(self, path: Path) -> None:
        self.data = path.read_bytes()
        self.at = 4
        assert self.data[:4] == b"GGUF"
        _, tensors, keys = self.take("IQQ")
        self.keys: dict[str, tuple[int, Any]] = {}
        for _ in range(keys):
            key = self.string().decode()
            (kind,) = self.take("I")
            assert key not in self.keys
            self.keys[key] = (kind, self.value(kind))
        self.keys_end = self.at
        infos = [self.info() for _ in range(tensors)]
        start = -(-self.at // 32) * 32
        self.tensors: dict[str, Tensor] = {}
        for name, shape, kind, offset in infos:
            size = int(np.prod(shape[1:])) * BY_ID[kind].row_bytes(shape[0])
            data = self.data[start + offset : start + offset + size]
            assert len(data) == size and name not in self.tensors
            self.tensors[name] = Tensor(shape, BY_ID[kind].name, data)

    def take(self, form: str) -> tuple[Any, ...]:
        out = struct.unpack_from(f"<{form}", self.data, self.at)
        self.at += struct.calcsize(f"<{form}")
        return out

    def string(self) -> bytes:
        (size,) = self.take("Q")
        self.at += size
        return self.data[self.at - size : self.at]

    def value(self, kind: int) -> Any:
        if kind == 8:
            return self.string()
        if kind == 9:
            inner, count = self.take("IQ")
            if inner == 8:
                return inner, [self.string() for _ in range(count)]
            return inner, list(self.take(f"{count}{SCALARS[inner]}"))
        return self.take(SCALARS[kind])[0]

    def info(self) -> tuple[str, tuple[int, ...], int, int]:
        name = self.string().decode()
        (dims,) = self.take("I")
        shape = self.take(f"{dims}Q")
        kind, offset = self.take("IQ")
        return name, shape, kind, offset


def split(path: Path, count: int) -> list[Path]:
    """The same model as llama.cpp's `gguf-split` lays it out: all keys in the first file."""
    whole = Gguf(path)
    names, files = list(whole.tensors), []
    for i in range(count):
        part = {n: whole.tensors[n] for n in names[i::count]}
        own = _split_key("split.no", 2, "H", i) + _split_key("split.count", 2, "H", count)
        own += _split_key("split.tensors.count", 5, "i", len(names))
        keys = whole.data[24 : whole.keys_end] * (i == 0) + own
        head = b"GGUF" + struct.pack("<IQQ", 3, len(part), 3 + len(whole.keys) * (i == 0)) + keys
        data = b""
        for name, tensor in part.items():
            kind = next(k.id for k in TYPES.values() if k.name == tensor.type)
            head += _text(name) + struct.pack("<I", len(tensor.shape))
            head += struct.pack(f"<{len(tensor.shape)}QIQ", *tensor.shape, kind, len(data))
            data += tensor.data + bytes(-len(tensor.data) % 32)
        files.append(path.with_name(f"{path.stem}-{i + 1:05d}-of-{count:05d}.gguf"))
        files[-1].write_bytes(head + bytes(-len(head) % 32) + data)
    return files


def _split_key(name: str, kind: int, form: str, value: int) -> bytes:
    return _text(name) + struct.pack(f"<I{form}", kind, value)


def _text(text: str) -> bytes:
    return struct.pack("<Q", len(text)) + text.encode()


def summary(path: Path) -> dict[str, Any]:
    """What is kept of a file: long values and tensors as checksums."""
    file = Gguf(path)
    return {
        "keys": {key: [kind, _short(value)] for key, (kind, value) in file.keys.items()},
        "tensors": [
            [name, list(tensor.shape), tensor.type, checksum(tensor.data)]
            for name, tensor in file.tensors.items()
        ],
    }


def checksum(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:24]


def _short(value: Any) -> Any:
    if isinstance(value, bytes):
        return value.decode() if len(value) < 200 else f"sha256 {checksum(value)}"
    if isinstance(value, tuple):
        text = repr(value).encode()
        return f"{len(value[1])} x type {value[0]}, sha256 {checksum(text)}"
    return value
