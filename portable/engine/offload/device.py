"""A place where layers can lie: a GPU, another machine, or the host itself. Asks no driver."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

MIB, GIB = 1 << 20, 1 << 30

Kind = Literal["gpu", "igpu", "rpc", "cpu"]

# Bytes that a plan leaves alone. A GPU's libraries take some hundred MB outside of llama.cpp's
# buffers when they compute first, and a screen that is opened meanwhile takes its share. An
# integrated GPU takes what is the host's, where the rest of this program grows while it answers:
# grammars, texts, sockets. A worker on another machine has left room for itself before it answers.
MARGINS: dict[Kind, int] = {"gpu": 512 * MIB, "igpu": 0, "rpc": 128 * MIB, "cpu": 256 * MIB}


@dataclass(frozen=True, slots=True)
class Device:
    """One device as ggml's registry names it; memory in bytes.

    An `igpu` takes its memory from the host's. The host is a device of the kind `cpu`, whose `free`
    is what this process may still take.
    """

    name: str
    description: str
    free: int
    total: int
    kind: Kind = "gpu"
    backend: str = ""

    def __str__(self) -> str:
        memory = f"{self.free / GIB:.1f}/{self.total / GIB:.1f} GiB free"
        return f"{self.name} ({self.description}, {memory})"
