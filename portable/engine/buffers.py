"""llama.cpp's own lines while it loads -> bytes and layers by device. Pure: reads text.

Its summary "offloaded 31/31 layers to GPU" tells what was asked for, also where no device took any:
what is said of each layer and of each buffer is what happened.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, fields
from typing import Protocol

from portable.engine.offload.device import MIB

HOST = "CPU"

_BUFFER = re.compile(
    r"(\S+) +(model|LoRA|KV|RS|DSV4 .+ state|compute|output) buffer size = +([\d.]+) MiB"
)
_LAYER = re.compile(r"load_tensors: layer +(\d+) assigned to device (\S+),")
_REMOTE = re.compile(r"RPC(\d+)\[(.+)\]")
_KINDS = {"model": "weights", "LoRA": "adapter", "KV": "cache", "RS": "state"}
_KINDS |= {"compute": "compute", "output": "output"}
# Buffers of the host's memory that are named after who computes with them or copies from them.
_OF_THE_HOST = ("CPU", "AMX", "BLAS")


class Named(Protocol):
    """A device: "RPC0" is described by its HOST:PORT."""

    @property
    def name(self) -> str: ...

    @property
    def description(self) -> str: ...


@dataclass(frozen=True, slots=True)
class Buffers:
    """Bytes by the name of the device, of the model and of all contexts over it so far.

    `mapped` are weights that lie in the file's own pages, from the first to the last that is used:
    what lies between may be used elsewhere. `weights` are the others.
    `layers` are counted with the output as the last one.
    """

    weights: dict[str, int] = field(default_factory=dict)
    mapped: dict[str, int] = field(default_factory=dict)
    adapter: dict[str, int] = field(default_factory=dict)
    cache: dict[str, int] = field(default_factory=dict)
    state: dict[str, int] = field(default_factory=dict)
    compute: dict[str, int] = field(default_factory=dict)
    output: dict[str, int] = field(default_factory=dict)
    layers: dict[str, int] = field(default_factory=dict)

    def __add__(self, other: Buffers) -> Buffers:
        return Buffers(*(_sum(getattr(self, f.name), getattr(other, f.name)) for f in fields(self)))

    def elsewhere(self) -> dict[str, int]:
        """All bytes on each device but the host."""
        kinds = (getattr(self, f.name) for f in fields(self) if f.name != "layers")
        sums: dict[str, int] = {}
        for kind in kinds:
            sums = _sum(sums, kind)
        return {name: size for name, size in sums.items() if name != HOST}


def read(lines: Iterable[str], devices: Sequence[Named] = ()) -> Buffers:
    """What one load, or the making of one context, said; `devices` tell whose an RPC buffer is.

    Compute buffers are told again whenever they are made anew: the last time counts.
    """
    found: dict[str, Counter[str]] = {f.name: Counter() for f in fields(Buffers)}
    compute: dict[str, int] = {}
    for line in lines:
        if match := _BUFFER.search(line):
            name, kind, size = match[1], match[2], round(float(match[3]) * MIB)
            if kind == "compute":
                compute[name] = size
            else:
                found[_kind(name, kind)][_device(name, devices)] += size
        elif match := _LAYER.search(line):
            found["layers"][match[2]] += 1
    for name, size in compute.items():
        found["compute"][_device(name, devices)] += size
    return Buffers(**{name: dict(counts) for name, counts in found.items()})


def _kind(name: str, kind: str) -> str:
    if kind == "model" and name.endswith("_Mapped"):
        return "mapped"
    return _KINDS.get(kind, "state")


def _device(buffer: str, devices: Sequence[Named]) -> str:
    """Whose memory a buffer takes, by the buffer's name."""
    if remote := _REMOTE.fullmatch(buffer):  # the first number counts a worker's own devices
        same = [device.name for device in devices if device.description == remote[2]]
        index = int(remote[1])
        return same[index] if index < len(same) else buffer
    owner, _, rest = buffer.partition("_")
    return HOST if rest == "Host" or owner in _OF_THE_HOST else owner


def _sum(one: dict[str, int], other: dict[str, int]) -> dict[str, int]:
    return {name: one.get(name, 0) + other.get(name, 0) for name in [*one, *other]}
