"""Where a loaded model lies, device by device, and whether that can be true. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from portable.engine.buffers import HOST, Buffers
from portable.engine.findings import Finding
from portable.engine.offload.device import GIB, MIB, Device, Kind

_PARTS = ("weights", "cache", "compute")
# Of any GPU's own memory more bytes are read a second; on the bus beside it fewer.
_SLOW_BYTES = 10e9
# A step may take that long for other reasons.
_LEAST_SECONDS = 0.05
# What is not claimed need not be seen: drivers hold some memory back, and give some at once.
_LEAST_CLAIM = 256 * MIB


@dataclass(frozen=True, slots=True)
class Place:
    """What of a model lies on a device; memory in bytes.

    `cache` is the KV cache and recurrent states, `compute` what is computed in and put out.
    `before` was free before the model was loaded, `free` is what was left.
    """

    device: str
    description: str
    kind: Kind
    layers: int = 0
    weights: int = 0
    cache: int = 0
    compute: int = 0
    before: int = 0
    free: int = 0
    total: int = 0

    @property
    def bytes(self) -> int:
        return self.weights + self.cache + self.compute

    def __str__(self) -> str:
        if self.kind == "cpu":
            return self.device
        # Some drivers know no free memory, and say that all of it is.
        used = max(self.total - self.free, self.bytes)
        memory = f"{used / GIB:.1f}/{self.total / GIB:.1f} GiB"
        return f"{self.device} ({self.description}, {memory})"

    def detail(self) -> str:
        """What it holds, part by part."""
        parts = (f"{getattr(self, name) / GIB:.2f} {name}" for name in _PARTS)
        left = f"{self.free / GIB:.1f} of {self.total / GIB:.1f} GiB were left free"
        return f"{self.device}: {self.layers} layers, {', '.join(parts)} GiB; {left}"


def places(
    buffers: Buffers, before: Sequence[Device], after: Sequence[Device], host_weights: int
) -> tuple[Place, ...]:
    """Each device as it was `before` loading, and is; the host comes last.

    `host_weights` are the bytes of those weights that lie on no other device: what llama.cpp says
    of a mapped file, and of weights that it holds a second time in another order, is more.
    """
    left = {device.name: device.free for device in after}
    return tuple(_place(buffers, d, left.get(d.name, d.free), host_weights) for d in before)


def _place(buffers: Buffers, device: Device, free: int, host_weights: int) -> Place:
    name = HOST if device.kind == "cpu" else device.name
    own = buffers.weights.get(name, 0) + buffers.mapped.get(name, 0)
    return Place(
        name,
        device.description,
        device.kind,
        buffers.layers.get(name, 0),
        (host_weights if device.kind == "cpu" else own) + buffers.adapter.get(name, 0),
        buffers.cache.get(name, 0) + buffers.state.get(name, 0),
        buffers.compute.get(name, 0) + buffers.output.get(name, 0),
        device.free,
        free,
        device.total,
    )


def spoken(found: Sequence[Place], threads: int) -> str:
    """What ran where, in one line."""
    total = sum(place.layers for place in found)
    used = [place for place in found if place.layers]
    if all(place.kind == "cpu" for place in used):
        return f"all {total} layers on CPU, {threads} threads"
    shares = [f"{place.layers}/{total} layers -> {place}" for place in used]
    return ", ".join(shares) + (f", {threads} threads" if used[-1].kind == "cpu" else "")


def doubts(found: Sequence[Place], held: int | None = None) -> Iterator[Finding]:
    """GPUs whose memory tells another story than llama.cpp.

    `held` are the bytes that this process holds on NVIDIA's GPUs, by their driver, if it tells.
    """
    for place in found:
        taken = place.before - place.free
        # Some drivers know no free memory; of a host's, other programs take and give at any time.
        if place.kind != "gpu" or place.free == place.total:
            continue
        if place.device.startswith("CUDA") and held is not None:
            taken = max(taken, held)
        if place.bytes >= _LEAST_CLAIM and taken < place.bytes / 2:
            yield Finding(
                "not_taken",
                f"llama.cpp says that {place.bytes / GIB:.1f} GiB lie on {place.device}, whose free"
                f" memory fell by {max(0, taken) / GIB:.1f} GiB",
                "portable doctor looks at the driver",
            )


def slow(found: Sequence[Place], token_seconds: float) -> Finding | None:
    """A token takes longer than any GPU needs to read the weights that are said to lie on it.

    Nothing is said of models that lie elsewhere, too.
    """
    used = [place for place in found if place.layers]
    size = sum(place.weights for place in used)
    if not used or any(place.kind != "gpu" for place in used):
        return None
    if token_seconds <= _LEAST_SECONDS + size / _SLOW_BYTES:
        return None
    names = ", ".join(place.device for place in used)
    return Finding(
        "slow",
        f"a token takes {token_seconds:.2f} s, which is slow for {size / GIB:.1f} GiB of weights on"
        f" {names}: the driver may keep them elsewhere, or computes without a GPU",
        "portable doctor looks at it; --gpu-layers 0 may be faster",
    )
