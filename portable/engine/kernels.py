"""How fast this machine does what a model consists of, timed with ggml itself in a child process.

Loads no llama.cpp: `timer` does. A defect in a kernel ends that process only.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from portable.engine.death import Cause
from portable.engine.isolated import ask
from portable.errors import EngineError

LIMIT_SECONDS = 120
_F16 = 1  # ggml's number of the type


class Matrix(msgspec.Struct, frozen=True, tag=True, tag_field="kernel"):
    """Rows of `columns` values of ggml's type number `type`, which takes `row_bytes` for each,
    multiplied by `vectors` at once. Timed in seconds for each value of the matrix."""

    type: int
    columns: int
    row_bytes: int
    vectors: int = 1


class Attention(msgspec.Struct, frozen=True, tag=True, tag_field="kernel"):
    """Flash attention of `vectors` tokens, in `heads` over `groups` of keys and values of these
    lengths, to `cells` of ggml's type number `type`. Timed in seconds for one layer."""

    heads: int
    groups: int
    key: int
    value: int
    cells: int
    type: int = _F16
    vectors: int = 1


class Sum(msgspec.Struct, frozen=True, tag=True, tag_field="kernel"):
    """What stands for all small operations between these: `width` values a token are added to
    others. Timed in seconds for one of them."""

    width: int
    vectors: int = 1


Operation = Matrix | Attention | Sum


class Request(msgspec.Struct):
    """`device` is llama.cpp's name for one; none is the CPU."""

    operations: list[Operation]
    threads: int = 0
    device: str = ""


class Timed(msgspec.Struct, frozen=True):
    """`repacked`: the weights do not lie in memory as they lie in the file."""

    seconds: float
    repacked: bool = False


def time_kernels(requests: Sequence[Request]) -> list[list[Timed]]:
    """The operations of each request, in its order. Raises EngineError."""
    timed = ask("portable.engine.timer", requests, list[list[Timed]], seconds=LIMIT_SECONDS)
    if isinstance(timed, Cause):
        raise EngineError(
            f"ggml's kernels cannot be timed here: {timed.what}",
            hint=timed.mend or "portable doctor says what is wrong",
        )
    return timed
