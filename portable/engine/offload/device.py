"""A place where layers can lie: a GPU, another machine, or the host itself. Asks no driver."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

GIB = 1 << 30
MIB = 1 << 20

Kind = Literal["gpu", "igpu", "rpc", "cpu"]


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


def margin(device: Device) -> int:
    """Bytes that a plan leaves alone."""
    return 256 * MIB if device.kind == "cpu" else 0 if device.kind == "igpu" else 512 * MIB
