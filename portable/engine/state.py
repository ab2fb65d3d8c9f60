"""A slot's cells as bytes and back, through llama_cpp, and what these bytes depend on.

Damaged bytes are llama.cpp's to refuse only in part: whoever calls has verified them.
"""

from __future__ import annotations

import ctypes
import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from portable import gguf
from portable.engine.config import EngineConfig
from portable.engine.native import lib

if TYPE_CHECKING:
    from portable.engine.backend import State

_SAMPLE = 4096  # bytes of each tensor


def save(context: Any, slot: int, most: int, *, part: bool = False) -> State | None:
    """All cells of a sequence, or the `part` that cannot be shortened; None if over `most` bytes.

    Of a recurrent state that is all of it, of sliding windows what they look at.
    """
    flags = lib.LLAMA_STATE_SEQ_FLAGS_PARTIAL_ONLY if part else 0
    size = lib.llama_state_seq_get_size_ext(context, slot, flags)
    if not 0 < size <= most:
        return None
    state = np.empty(size, np.uint8)
    written = lib.llama_state_seq_get_data_ext(context, _pointer(state), size, slot, flags)
    return state if written == size else None


def load(context: Any, slot: int, state: State, count: int) -> bool:
    """Fill an empty sequence with `count` tokens; False, and empty again, if that fails."""
    memory = lib.llama_get_memory(context)
    read = lib.llama_state_seq_set_data(context, _pointer(state), state.nbytes, slot)
    if read == state.nbytes and lib.llama_memory_seq_pos_max(memory, slot) == count - 1:
        return True
    # Of two caches, as sliding windows have, the first may have been filled.
    lib.llama_memory_seq_rm(memory, slot, 0, -1)
    return False


def load_part(context: Any, slot: int, part: State, count: int) -> bool:
    """Bring a sequence back to the `count` tokens that it had when `part` was saved."""
    memory, flags = lib.llama_get_memory(context), lib.LLAMA_STATE_SEQ_FLAGS_PARTIAL_ONLY
    read = lib.llama_state_seq_set_data_ext(context, _pointer(part), part.nbytes, slot, flags)
    if read != part.nbytes or not lib.llama_memory_seq_rm(memory, slot, count, -1):
        return False
    return bool(lib.llama_memory_seq_pos_max(memory, slot) == count - 1)


def identity(config: EngineConfig, *facts: object) -> bytes:
    """32 bytes that differ where a state of one model must not be loaded into another.

    Raises ModelFileError and OSError for what is no GGUF file.
    """
    digest = hashlib.sha256(repr((lib.__version__, *facts)).encode())
    files = [*gguf.shards(config.model), *filter(None, [config.adapter])]
    for file in files:
        digest.update(hashlib.sha256(_sample(file)).digest())
    return digest.digest()


def _sample(path: Path) -> bytes:
    """The head, which may carry a checksum of all tensors, else with the beginning of each."""
    head = gguf.read(path)
    with path.open("rb") as file:
        data = file.read(head.start)
        if gguf.CHECKSUM not in head.keys:
            for tensor in head.infos:
                file.seek(head.start + tensor.offset)
                data += file.read(_SAMPLE)
        return data + path.stat().st_size.to_bytes(8, "little")


def _pointer(state: State) -> Any:
    return state.ctypes.data_as(ctypes.POINTER(ctypes.c_uint8))
