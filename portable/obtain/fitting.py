"""Which quantization is fetched where nobody named one: the default if it fits this machine."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import convert
from portable import gguf
from portable.engine.machine import available_memory
from portable.errors import NotEnoughMemory
from portable.fit.fit import choose, planned, usual
from portable.obtain.look import of_found
from portable.obtain.model import Found, Wish

# What a context and its buffers take at most of those models that are not looked at closely.
_ALLOWANCE = 2 << 30


def settle(found: Found, wish: Wish) -> Wish:
    """The wish, with a smaller quantization if the default one would not fit; says so.

    Raises NotEnoughMemory if none would, unless that is forced, and what `look` raises.
    """
    if wish.quant or wish.force or not found.listing or _is_small(found, wish):
        return wish
    candidates = of_found(found, replace(wish, dry_run=True, say=lambda _: None))
    cases = planned(candidates, usual())
    best = choose(cases, candidates.default)
    if not best:
        least = min(cases, key=lambda case: case.variant.size)
        raise NotEnoughMemory(
            f"nothing of {candidates.model} fits this machine: {least.why}",
            hint="name a --quant to fetch it all the same, or choose a smaller model",
        )
    quant = best.variant.quant
    if quant == candidates.default:
        return wish
    wish.say(f"{candidates.default} would not fit this machine: taking {quant}")
    return replace(wish, quant=quant)


def _is_small(found: Found, wish: Wish) -> bool:
    """So small that it fits whatever its layers are like."""
    listing = found.listing
    assert listing, "found on a hub"
    ready = Counter[str]()  # a split model by the name of its first file
    for file in listing.ggufs:
        ready[gguf.shard_names(file.path)[0]] += file.size
    weights = [file.size for file in listing.files if file.path.endswith(".safetensors")]
    # The wider a weight was, the less is left of it: 16 bits are the least that is usual.
    made = sum(weights) * convert.bits(found.target.quant) / 16
    return max([made, *ready.values()]) + _ALLOWANCE < available_memory()
