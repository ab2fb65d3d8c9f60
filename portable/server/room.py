"""How much memory a model is going to take, and which others leave to make room."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, TypeVar

from portable import facts, gguf
from portable.engine.config import EngineConfig
from portable.errors import PortableError

# Bytes of a value of the KV cache, against f16.
_KV_SHARE = {"auto": 1.0, "f16": 1.0, "q8_0": 34 / 64, "q4_0": 18 / 64}
# Compute buffers, the vocabulary, Python itself: measured at 150 to 400 MB.
_OVERHEAD = 300 << 20


class Lodger(Protocol):
    """A loaded model, as far as making room goes. `used_at` is on the monotonic clock."""

    used_at: float

    @property
    def is_busy(self) -> bool: ...


L = TypeVar("L", bound=Lodger)


def need(config: EngineConfig) -> int:
    """Bytes that the model takes when it is loaded, as far as its file tells; reads its head."""
    try:
        weights, known = gguf.size(config.model), facts.of(config.model)
    except (OSError, PortableError):
        return 0  # loading it is going to say what is wrong
    context = config.context or min(known["context"] or 0, config.default_context)
    context *= config.slots if config.deterministic else 1
    cache = (known["cache_bytes_per_token"] or 0) * context * _KV_SHARE[config.kv_type]
    return int(weights + cache) + _OVERHEAD


def first_to_leave(loaded: Sequence[L]) -> L | None:
    """The one not used for longest, an idle one before a busy one."""
    return min(loaded, key=lambda one: (one.is_busy, one.used_at), default=None)
