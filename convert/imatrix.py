"""llama.cpp's importance matrices: how much each column of each weight matters; GGUF and old files.

What is kept of a column is the sum of squares of the values that the model multiplied it with.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from convert.gguf_file import Info, KeyValues, data_size, head, padded
from convert.gguf_reader import Damaged, Gguf, read_gguf
from convert.writer import PartialFile, check_output, check_space, locked
from portable.errors import UsageError
from portable.tensortype import TYPES

SUMS, COUNTS = ".in_sum2", ".counts"
DATASETS, CHUNKS, CHUNK_TOKENS = "imatrix.datasets", "imatrix.chunk_count", "imatrix.chunk_size"
# How much of a text llama.cpp's quantizer copies into a model.
TEXT_BYTES = 127
NEITHER = "is neither a GGUF file nor an older matrix, or is cut short"
Floats = np.ndarray[Any, np.dtype[np.float32]]


@dataclass(frozen=True, eq=False)
class Entry:
    """One tensor's `sums` of squares, over as many rows as `counts` says.

    `sums` holds each expert's columns after those of the one before; `counts` has one value, or one
    for each expert.
    """

    sums: Floats
    counts: Floats

    def weights(self, expert: int, experts: int) -> Floats:
        """The mean squares of one expert's columns; 1 for one that nothing was routed to."""
        sums = self.sums.reshape(experts, -1)[expert]
        count = self.counts[expert % len(self.counts)]
        return sums / count if count > 0 else np.ones_like(sums)

    def fits(self, experts: int, columns: int) -> bool:
        return self.sums.size == experts * columns and len(self.counts) in (1, experts)


@dataclass(frozen=True, eq=False)
class Imatrix:
    """`chunks` chunks of `chunk_tokens` tokens of the texts `datasets` went into `entries`."""

    entries: Mapping[str, Entry]
    datasets: tuple[str, ...]
    chunks: int
    chunk_tokens: int
    file: str = ""

    def entry(self, name: str, shape: tuple[int, ...]) -> Entry | None:
        """A tensor's own entry, if there is one. Raises UsageError for one of another shape."""
        found = self.entries.get(name)
        *experts, _rows, columns = shape
        if found is None or found.fits(int(np.prod(experts)), columns):
            return found
        if name == "token_embd.weight":  # never right in llama.cpp's files, and ignored there
            return None
        raise self._foreign(f"{name} has {found.sums.size} columns there")

    def left_out(self, names: list[str]) -> list[str]:
        """A line on quantized tensors without an entry. Raises UsageError if none has one."""
        # llama-imatrix looks at these two only when it is told to.
        names = [name for name in names if name not in ("output.weight", "token_embd.weight")]
        missing = [name for name in names if name not in self.entries]
        if names and missing == names:
            raise self._foreign(f"it lacks {names[0]} and all others")
        if not missing:
            return []
        return [f"{self.file} lacks {len(missing)} of {len(names)} tensors, such as {missing[0]}"]

    def _foreign(self, why: str) -> UsageError:
        return UsageError(
            f"{self.file} is of another model: {why}",
            hint="portable imatrix MODEL TEXT makes one of this model",
            param="imatrix",
        )

    @property
    def unused(self) -> float:
        """The share of the experts that nothing was routed to, over all tensors."""
        counts = [e.counts for e in self.entries.values() if len(e.counts) > 1]
        return float((np.concatenate(counts) == 0).mean()) if counts else 0.0

    def recipe(self) -> KeyValues:
        """The keys that llama.cpp's quantizer writes; of the file's path only the name."""
        out: KeyValues = {"quantize.imatrix.file": ("string", _shortened(self.file))}
        if self.datasets:
            out["quantize.imatrix.dataset"] = ("string", _shortened(self.datasets[0]))
        out["quantize.imatrix.entries_count"] = ("uint32", len(self.entries))
        if self.chunks > 0:
            out["quantize.imatrix.chunks_count"] = ("uint32", self.chunks)
        return out


def _shortened(text: str) -> bytes:
    return text.encode("utf-8", "replace")[:TEXT_BYTES]


def read_imatrix(path: Path) -> Imatrix:
    """An importance matrix in either format. Raises UsageError for anything else."""
    try:
        if path.exists() and not path.is_file():  # a pipe would be waited for
            raise Damaged("is not an ordinary file")
        with path.open("rb") as file:
            is_gguf = file.read(4) == b"GGUF"
        found = _from_gguf(read_gguf(path), path.name) if is_gguf else _from_legacy(path)
        for name, entry in found.entries.items():
            if not (np.isfinite(entry.sums).all() and np.isfinite(entry.counts).all()):
                raise Damaged(f"holds a value of {name} that is not a number")
    except OSError as error:
        raise UsageError(
            f"{path}: {error.strerror}", hint="name a file for --imatrix", param="imatrix"
        ) from None
    except Damaged as error:
        raise UsageError(
            f"{path} is not an importance matrix: it {error}",
            hint="portable imatrix MODEL TEXT makes one",
            param="imatrix",
        ) from None
    return found


def _from_gguf(file: Gguf, name: str) -> Imatrix:
    said: list[Any] = [file.keys.get(key) for key in (DATASETS, CHUNKS, CHUNK_TOKENS)]
    if [type(value) for value in said] != [list, int, int]:
        raise Damaged(f"is another GGUF file, of type {file.keys.get('general.type')!r:.40}")
    arrays = {tensor.name: tensor for tensor in file.tensors}
    entries = {}
    for tensor in sorted({n.removesuffix(SUMS).removesuffix(COUNTS) for n in arrays}):
        if not (tensor + SUMS in arrays and tensor + COUNTS in arrays):
            raise Damaged(f"lacks the sums or the counts of {tensor}")
        counts = file.float32(arrays[tensor + COUNTS]).reshape(-1).round()
        entries[tensor] = Entry(file.float32(arrays[tensor + SUMS]).reshape(-1), counts)
    if not entries:
        raise Damaged("holds no tensor")
    return Imatrix(entries, tuple(said[0]), said[1], said[2], name)


def _from_legacy(path: Path) -> Imatrix:
    """The format before GGUF: means times the number of chunks, and that number."""
    data = _Legacy(np.memmap(path, np.uint8, mode="r").data if path.stat().st_size else b"")
    entries = {}
    for _ in range(data.count()):
        name = data.text()
        chunks, values = data.number(), data.count()
        sums = np.frombuffer(data.take(4 * values), "<f4")
        entries[name] = Entry(sums, np.array([max(chunks, 1)], np.float32))
    # What follows is optional: the number of chunks, and the name of the text.
    chunks = data.number() if data.left else 0
    datasets = (data.text(),) if data.left else ()
    return Imatrix(entries, datasets, chunks, 0, path.name)


class _Legacy:
    """Little-endian numbers and texts, one after another."""

    def __init__(self, data: memoryview | bytes) -> None:
        self.left = memoryview(data)

    def take(self, size: int) -> memoryview:
        if not 0 <= size <= len(self.left):
            raise Damaged(NEITHER)
        part, self.left = self.left[:size], self.left[size:]
        return part

    def number(self) -> int:
        return int(struct.unpack("<i", self.take(4))[0])

    def count(self) -> int:
        """A number of things that must be there."""
        if (found := self.number()) < 1:
            raise Damaged(NEITHER)
        return found

    def text(self) -> str:
        """A name, or a path; at most as long as these get."""
        return bytes(self.take(min(self.number(), 1 << 16))).decode("utf-8", "replace")


def write_imatrix(imatrix: Imatrix, path: Path) -> None:
    """The GGUF file that llama-imatrix writes, all or nothing. Raises UsageError or DiskError."""
    tensors: list[tuple[Info, Floats]] = []
    for name, entry in sorted(imatrix.entries.items()):
        for suffix, values in ((SUMS, entry.sums), (COUNTS, entry.counts)):
            # GGUF leaves out dimensions of 1 at the end.
            shape = values.reshape(len(entry.counts), -1).shape[len(entry.counts) == 1 :]
            tensors.append((Info(name + suffix, shape, TYPES["F32"]), values))
    keys: KeyValues = {
        "general.type": ("string", "imatrix"),
        DATASETS: ("strings", list(imatrix.datasets)),
        CHUNKS: ("uint32", imatrix.chunks),
        CHUNK_TOKENS: ("uint32", imatrix.chunk_tokens),
    }
    infos = [info for info, _ in tensors]
    front = head(keys, infos)
    size = len(front) + data_size(infos)
    check_output(path, path)
    with locked(path):
        check_space(path, size)
        with PartialFile(path, size) as file:
            file.write(bytes(len(front)))
            for info, values in tensors:
                file.write(values.astype("<f4").tobytes().ljust(padded(info.bytes), b"\0"))
            file.commit(front)
