"""Loads llama.cpp, lets it compute and says what it is: a Library as JSON.

`python -m portable.engine.probe`. What would end a process, such as a kernel with instructions that
the processor lacks, ends this one.
"""

from __future__ import annotations

import ctypes
import importlib.metadata
import sys

import msgspec

from portable.engine.isolated import claimed_stdout
from portable.engine.kernels import Attention, Matrix, Operation, Request
from portable.engine.libllama import Library
from portable.engine.native import LOG, lib, libggml, list_devices, start
from portable.engine.timer import rates

# ggml's numbers of F16, Q4_0, Q8_0 and Q4_K: each has kernels of its own.
_TYPES = (1, 2, 8, 12)
_COLUMNS = 256


def main() -> int:
    answer = claimed_stdout()
    start()
    devices, backends = list_devices()
    log = [line for line in "".join(LOG).splitlines() if line.strip()]
    _compute()
    libggml.ggml_commit.restype = ctypes.c_char_p
    found = Library(
        version=importlib.metadata.version("llama-cpp-python"),
        commit=libggml.ggml_commit().decode(),
        features=features(lib.llama_print_system_info().decode()),
        backends=backends,
        devices=devices,
        log=log,
    )
    answer.write(msgspec.json.encode(found))
    answer.flush()
    return 0


def _compute() -> None:
    """A small product of each type, and a small attention."""
    size = libggml.ggml_row_size
    size.restype, size.argtypes = ctypes.c_size_t, [ctypes.c_int, ctypes.c_int64]
    products = [Matrix(type, _COLUMNS, size(type, _COLUMNS)) for type in _TYPES]
    work: list[Operation] = [*products, Attention(heads=4, groups=2, key=64, value=64, cells=256)]
    rates(Request(work, threads=1), seconds=0, weight_bytes=0)


def features(said: str) -> dict[str, dict[str, str]]:
    """`CPU : AVX2 = 1 | FMA = 1 | CUDA : ARCHS = 860 | ` by backend and name."""
    found: dict[str, dict[str, str]] = {}
    backend = ""
    for part in filter(None, map(str.strip, said.split("|"))):
        named, colon, rest = part.partition(" : ")
        if colon:
            backend, part = named, rest
        key, _, value = part.partition(" = ")
        found.setdefault(backend, {})[key.strip()] = value.strip()
    return found


if __name__ == "__main__":
    sys.exit(main())
