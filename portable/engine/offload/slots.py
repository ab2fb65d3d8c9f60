"""How many requests decode together, if nobody said it. Pure."""

from __future__ import annotations

from portable.engine.offload.device import GIB
from portable.engine.offload.shape import Shape
from portable.engine.offload.wish import Wish

# Tokens. With fewer a slot, requests keep pushing each other out.
_A_SLOT = 512
# More rows a step make every one of them slow; who knows better names a number.
MOST_SLOTS = 32


def auto_slots(shape: Shape, wish: Wish, free: int) -> tuple[int, str]:
    """The number, and why.

    They share a context. What each takes for itself, its state or a context `apart`, takes an
    eighth of the `free` bytes at most, all together.
    """
    context = wish.longest(shape)
    count = MOST_SLOTS if wish.apart else min(MOST_SLOTS, max(1, context // _A_SLOT))
    own = shape.state
    if wish.apart:
        kv_type = "f16" if wish.kv_type == "auto" else wish.kv_type
        own += int(context * shape.cache(kv_type, flash=wish.flash))
    if own:
        count = min(count, max(1, free // 8 // own))
    context_of = f"{context} tokens each" if wish.apart else f"sharing {context} tokens"
    takes = f", {own / GIB:.2f} GiB for each of {free / GIB:.1f} GiB free" if own else ""
    return count, f"--parallel auto: {count}, {context_of}{takes}"
