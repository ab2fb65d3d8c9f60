"""How much memory a model is going to take, and which others leave to make room."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, TypeVar

from portable import gguf
from portable.engine.config import EngineConfig
from portable.engine.offload.device import Device
from portable.engine.offload.packing import Load
from portable.engine.offload.shape import shape_of
from portable.engine.offload.wish import wish_of
from portable.errors import PortableError

_HOST = Device("CPU", "", 0, 0, "cpu")
# Bytes of Python, the libraries and the vocabulary: 110 MB of them measured, with 49,000 tokens.
_PROGRAM = 200 << 20


class Lodger(Protocol):
    """A loaded model, as far as making room goes. `used_at` is on the monotonic clock."""

    used_at: float

    @property
    def is_busy(self) -> bool: ...


L = TypeVar("L", bound=Lodger)


def need(config: EngineConfig) -> int:
    """Bytes that the model takes on the CPU, as far as its file tells; reads its head."""
    try:
        shape = shape_of(gguf.read_all(config.model))
    except (OSError, PortableError):
        return 0  # loading it is going to say what is wrong
    wish = wish_of(config)
    kv_type = "f16" if wish.kv_type == "auto" else wish.kv_type
    return Load(shape, wish, wish.longest(shape), kv_type).host(_HOST, 0).total + _PROGRAM


def first_to_leave(loaded: Sequence[L]) -> L | None:
    """The one not used for longest, an idle one before a busy one."""
    return min(loaded, key=lambda one: (one.is_busy, one.used_at), default=None)
