"""The head of a GGUF file, and which files make up a split one; reads no weights, needs no library.

read(Path("m.gguf"))  ->  Head({"general.architecture": "qwen2", ...}, (Tensor(...), ...), 5949440)
"""

from __future__ import annotations

import math
import re
import stat
import struct
from io import BytesIO
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from portable import tensortype
from portable.errors import ModelFileError

MAGIC = b"GGUF"
CHECKSUM = "portable.tensors.sha256"  # the key that holds the SHA-256 of everything after the head
MAX_HEAD = 256 << 20  # bytes; vocabularies of 256k tokens take 15 MB
BLOCK = 1 << 20
# The number that a type has in the file: how `struct` reads it.
SCALARS = dict(zip(range(13), ("B", "b", "H", "h", "I", "i", "f", "?", "", "", "Q", "q", "d")))
STRING, ARRAY = 8, 9
ALIGNMENT = 32
MOST_LAYERS = 512  # llama.cpp's limit, and so that of a list with a number for each of them
_SPLIT = re.compile(r"(.+)-(\d{5})-of-(\d{5})\.gguf")


class Length(int):
    """An array's number of elements, in place of an array of texts or of many numbers."""


class Tensor(NamedTuple):
    """`shape` has the row's length last, `type` is ggml's number; `offset` counts from `start`."""

    name: str
    shape: tuple[int, ...]
    type: int
    offset: int

    @property
    def values(self) -> int:
        return math.prod(self.shape)

    @property
    def bytes(self) -> int:
        """Raises ModelFileError for a type that ggml does not have."""
        kind = tensortype.BY_ID.get(self.type)
        if kind is None:
            raise ModelFileError(
                f"{self.name} is of type {self.type}, which llama.cpp does not know",
                hint="convert or download the model again",
            )
        return kind.row_bytes(self.values)


class Head(NamedTuple):
    """`keys`, and the tensors, of which the first lies at byte `start`.

    Of arrays only those are here that may hold a number for each layer, as tuples.
    """

    keys: dict[str, Any]
    infos: tuple[Tensor, ...]
    start: int

    @property
    def tensors(self) -> int:
        return len(self.infos)

    @property
    def parameters(self) -> int:
        return sum(tensor.values for tensor in self.infos)


def read(path: Path) -> Head:
    """Raises ModelFileError for what is no whole GGUF file, and OSError as it comes."""
    info = path.stat()
    if not stat.S_ISREG(info.st_mode):
        raise ModelFileError(f"{path} is not a regular file")
    with path.open("rb") as file:
        return parse(file, info.st_size, str(path))


class Source(Protocol):
    """A file, here or far away, read from its beginning on."""

    def read(self, count: int, /) -> bytes: ...


def parse(file: Source, size: int, name: str) -> Head:
    """The head of a file of `size` bytes, of which no more is read than a block beyond it.

    Raises ModelFileError.
    """
    try:
        return _Reader(file).head(size)
    except (_Damaged, struct.error, UnicodeDecodeError) as error:
        raise ModelFileError(
            f"{name} is not a whole GGUF file: {error}", hint="convert or download it again"
        ) from None


def parse_tensors(data: bytes, count: int) -> tuple[tuple[Tensor, ...], int]:
    """So many descriptions of tensors that `data` begins with, and how many bytes they take.

    Raises ModelFileError.
    """
    reader = _Reader(BytesIO(data))
    try:
        return tuple(reader.tensor() for _ in range(count)), reader.at
    except (_Damaged, struct.error) as error:
        raise ModelFileError(f"the tensors are not described as they should be: {error}") from None


def read_all(path: Path) -> list[Head]:
    """The heads of all files of a model. Raises what `read` raises."""
    return [read(shard) for shard in shards(path)]


def shards(path: Path) -> list[Path]:
    """All files of a split model, in order, there or not; of a whole one just `path`.

    llama.cpp is given the first and finds the others by name.
    """
    return [path.with_name(name) for name in shard_names(path.name)]


def shard_names(name: str) -> list[str]:
    """`m-00002-of-00003.gguf` -> the names of all three."""
    match = _SPLIT.fullmatch(name)
    if not match or not 1 <= int(match[2]) <= int(match[3]):
        return [name]
    return [f"{match[1]}-{i:05d}-of-{match[3]}.gguf" for i in range(1, int(match[3]) + 1)]


def is_model(path: str) -> bool:
    """Whether a file is called like a language model, and not like what goes along with one."""
    name = path.rpartition("/")[2].lower()
    return name.endswith(".gguf") and not name.startswith("mmproj") and "imatrix" not in name


def has_quant(path: str, quant: str) -> bool:
    """`Q4_K` is not in `x-Q4_K_M.gguf`: the name stands between characters that end it."""
    name = path.rpartition("/")[2]
    return bool(re.search(rf"(?<![A-Za-z0-9_]){re.escape(quant)}(?![A-Za-z0-9_])", name, re.I))


def quant_of(path: str) -> str | None:
    """The quantization that a file's name says."""
    found = re.findall(
        r"(?<![A-Za-z0-9])(I?Q\d\w*|TQ\d_\d|MXFP4\w*|BF16|F16|F32)", path.rpartition("/")[2], re.I
    )
    return found[-1].upper() if found else None


def stem(path: Path) -> str:
    """The model's name: without the ending and the number of the shard."""
    match = _SPLIT.fullmatch(path.name)
    return match[1] if match else path.stem


def size(path: Path) -> int:
    """Bytes of the model, all shards together."""
    return sum(shard.stat().st_size for shard in shards(path))


def check_shards(path: Path) -> None:
    """Raises ModelFileError that names what is missing of a split model."""
    every = shards(path)
    missing = [shard.name for shard in every if not shard.is_file()]
    if missing and every[1:]:
        names = ", ".join(missing[:4]) + (" …" if missing[4:] else "")
        raise ModelFileError(
            f"{stem(path)} is split into {len(every)} files, and {len(missing)} of them "
            f"are not in {path.parent}: {names}",
            hint="download them again, all into one folder",
        )


class _Damaged(Exception):
    """The bytes are not a head."""


class _Reader:
    def __init__(self, file: Source) -> None:
        self.file = file
        self.data = bytearray()
        self.at = 0

    def head(self, file_size: int) -> Head:
        if self._bytes(4) != MAGIC:
            raise _Damaged("it does not begin with GGUF")
        version, tensors, count = self._take("<IQQ")
        if version not in (2, 3):
            raise _Damaged(f"its version is {version}")
        keys: dict[str, Any] = {}
        for _ in range(count):
            name = self._text()
            keys[name] = self._value(self._take("<I")[0])
        infos = tuple(self.tensor() for _ in range(tensors))
        last = max((tensor.offset for tensor in infos), default=0)
        if tensors and self.at + last >= file_size:
            raise _Damaged(f"it ends after {file_size} bytes, before its last tensor")
        step = keys.get("general.alignment", ALIGNMENT)
        if not isinstance(step, int) or not 0 < step <= 1 << 16:
            raise _Damaged(f"its alignment is {step}")
        return Head(keys, infos, -(-self.at // step) * step)

    def tensor(self) -> Tensor:
        name, (dims,) = self._text(), self._take("<I")
        if dims > 8:
            raise _Damaged(f"a tensor of {dims} dimensions")
        *shape, kind, offset = self._take(f"<{dims}QIQ")
        return Tensor(name, tuple(reversed(shape)), kind, offset)

    def _value(self, kind: int) -> Any:
        if kind == STRING:
            return self._text()
        if kind == ARRAY:
            inner, count = self._take("<IQ")
            if count <= MOST_LAYERS and SCALARS.get(inner):
                return self._take(f"<{count}{SCALARS[inner]}")
            self._skip(inner, count)
            return Length(count)
        return self._take("<" + _format(kind))[0]

    def _skip(self, kind: int, count: int) -> None:
        if kind != STRING:
            self._move(count * struct.calcsize(_format(kind)))
            return
        length = struct.Struct("<Q").unpack_from
        for _ in range(count):  # a vocabulary: written for speed
            if self.at + 8 > len(self.data):
                self._move(8)
                self.at -= 8
            self.at += 8 + length(self.data, self.at)[0]
        self._move(0)

    def _text(self) -> str:
        return self._bytes(self._take("<Q")[0]).decode("utf-8", "replace")

    def _take(self, form: str) -> tuple[Any, ...]:
        start = self.at
        self._move(struct.calcsize(form))
        return struct.unpack_from(form, self.data, start)

    def _bytes(self, count: int) -> bytes:
        self._move(count)
        return bytes(self.data[self.at - count : self.at])

    def _move(self, count: int) -> None:
        """Go on by `count` bytes, which are then in `data`."""
        self.at += count
        if self.at > MAX_HEAD:
            raise _Damaged(f"its head is larger than {MAX_HEAD >> 20} MB")
        while self.at > len(self.data):
            block = self.file.read(BLOCK)
            if not block:
                raise _Damaged("it ends inside its head")
            self.data += block


def _format(kind: int) -> str:
    if not SCALARS.get(kind):
        raise _Damaged(f"a value of type {kind}")
    return SCALARS[kind]
