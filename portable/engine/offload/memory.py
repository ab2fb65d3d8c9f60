"""Tokens, slots and bytes that fit into so much memory. Pure."""

from __future__ import annotations

from portable.engine.offload.device import GIB
from portable.errors import NotEnoughMemory

_LEAST_CONTEXT = 512  # tokens


def fitting_context(wanted: int, token_bytes: float, free: int) -> int:
    """Tokens of a context that nobody named: `wanted`, halved until it takes half of `free` bytes.

    At least 512, whether there is room or not: that is for `check_memory` to say.
    """
    context = wanted
    while context > _LEAST_CONTEXT and context * token_bytes > free / 2:
        context = max(_LEAST_CONTEXT, context // 2)
    return context


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
