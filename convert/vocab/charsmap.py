"""SentencePiece's table of characters to replace, walked as llama.cpp will walk it.

Its length, a trie packed into 32-bit units, then the replacements, each with a zero at its end.
llama.cpp trusts all of it while it tokenizes, and ends the process where an index is wrong.
"""

from __future__ import annotations

import struct
from typing import Any

import numpy as np

from portable.errors import CheckpointError

Units = np.ndarray[Any, np.dtype[np.int64]]
BYTES = np.arange(1, 256)
MAX_TRIE = 4 << 20  # bytes; the usual table's has 0.2 MB
AT_ONCE = 4096  # nodes whose children are looked at together


def check_charsmap(data: bytes) -> None:
    """Raises CheckpointError unless every path through the trie ends inside the table."""
    try:
        (size,) = struct.unpack_from("<I", data)
        if size % 4 or not 4 <= size < len(data) - 4 or size > MAX_TRIE:
            raise ValueError(f"its trie has {size} bytes of {len(data)}")
        _walk(np.frombuffer(data, "<u4", size // 4, 4).astype(np.int64), data[4 + size :])
    except (struct.error, ValueError, IndexError) as error:
        raise CheckpointError(
            f"the tokenizer's precompiled_charsmap is damaged: {error}",
            hint="download the tokenizer files again",
        ) from error


def _walk(units: Units, replacements: bytes) -> None:
    """Each node once; IndexError where one leads out of `units`."""
    last = replacements.rfind(0)
    waiting, seen = [_base(units[:1])], np.zeros(len(units), bool)
    while waiting:
        nodes, more = np.split(waiting.pop(), [AT_ONCE])
        if len(more):
            waiting.append(more)
        children = (nodes[:, None] ^ BYTES).reshape(-1)
        found = units[children]
        held = (found & 0x800000FF) == np.tile(BYTES, len(nodes))
        found = found[held]
        nodes = children[held] ^ _base(found)
        if (units[nodes[(found & 0x100) > 0]] & 0x7FFFFFFF > last).any():
            raise ValueError("it names a replacement that is not there")
        nodes = np.unique(nodes)
        nodes = nodes[~seen[nodes]]
        seen[nodes] = True
        if len(nodes):
            waiting.append(nodes)


def _base(units: Units) -> Units:
    return (units >> 10) << ((units & 0x200) >> 6)
