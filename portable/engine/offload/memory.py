"""Tokens, slots and bytes that fit into so much memory. Pure."""

from __future__ import annotations

from portable.engine.offload.device import GIB
from portable.errors import NotEnoughMemory

# Tokens. With fewer a slot, requests keep pushing each other out.
_A_SLOT = _LEAST_CONTEXT = 512
# More rows a step make every one of them slow; who knows better names a number.
MOST_SLOTS = 32


def fitting_context(wanted: int, token_bytes: float, free: int) -> int:
    """Tokens of a context that nobody named: `wanted`, halved until it takes half of `free` bytes.

    At least 512, whether there is room or not: that is for `check_memory` to say.
    """
    context = wanted
    while context > _LEAST_CONTEXT and context * token_bytes > free / 2:
        context = max(_LEAST_CONTEXT, context // 2)
    return context


def auto_slots(context: int, token_bytes: float, free: int, *, apart: bool) -> tuple[int, str]:
    """How many requests decode together, and why.

    They share `context` tokens; `apart` each has as many, in an eighth of the `free` bytes at most.
    """
    if not apart:
        count = min(MOST_SLOTS, max(1, context // _A_SLOT))
        return count, f"--parallel auto: {count}, sharing {context} tokens"
    size = max(1, context * token_bytes)
    count = int(min(MOST_SLOTS, max(1, free / 8 // size)))
    each = f"{context} tokens each, {size / GIB:.2f} GiB"
    return count, f"--parallel auto: {count}, {each} of {free / GIB:.1f} GiB free"


def check_memory(weights: int, cache: int, available: int, what: str = "the model") -> None:
    """Raise NotEnoughMemory unless weights and KV cache (bytes) fit what the machine has free."""
    need = weights + cache
    if need > available:
        raise NotEnoughMemory(
            f"{what} needs {need / GIB:.1f} GiB of memory"
            f" ({weights / GIB:.1f} weights, {cache / GIB:.1f} context),"
            f" {available / GIB:.1f} are free",
            hint="try a smaller --context or a smaller --quant",
        )
