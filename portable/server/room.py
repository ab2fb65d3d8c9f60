"""How much memory a model is going to take, and which others leave to make room."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
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
    """Bytes that the model, its adapter and its draft model take on the CPU, as far as their files
    tell; reads their heads."""
    try:
        shape = shape_of(gguf.read_all(config.model))
        extra = gguf.size(config.adapter) if config.adapter else 0
    except (OSError, PortableError):
        return 0  # loading it is going to say what is wrong
    wish = wish_of(config, extra)
    kv_type = "f16" if wish.kv_type == "auto" else wish.kv_type
    context = wish.longest(shape)
    taken = Load(shape, wish, context, kv_type).host(_HOST, 0).total + _PROGRAM
    if config.draft:  # in the same process
        draft = replace(config, model=config.draft, draft=None, adapter=None, context=context)
        taken += max(0, need(draft) - _PROGRAM)
    return taken


def first_to_leave(loaded: Sequence[L]) -> L | None:
    """The one not used for longest, an idle one before a busy one."""
    return min(loaded, key=lambda one: (one.is_busy, one.used_at), default=None)
