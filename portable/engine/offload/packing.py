"""Layers into devices: which of them get how many, with room for all that comes with a layer. Pure.

llama.cpp gives the last layers to devices, in the devices' order, and the output to the last one;
what is before them stays on the host. Layers are counted with the output, as `n_gpu_layers` does.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import accumulate

from portable.engine.offload.compute import Work, estimate, logits
from portable.engine.offload.device import Device
from portable.engine.offload.shape import KV_SHARE, CacheType, Shape
from portable.engine.offload.wish import Wish

# Where all layers have room, devices are filled alike, to the lowest of so many steps.
_STEPS = 32


@dataclass(frozen=True, slots=True)
class Share:
    """What one device holds; in bytes, but for the number of layers, which counts the output."""

    device: str
    layers: int
    weights: int
    cache: int
    compute: int

    @property
    def total(self) -> int:
        return self.weights + self.cache + self.compute


@dataclass(frozen=True)
class Load:
    """A model with a context: what each layer takes, if so many layers' experts stay on the host.

    `cache_on_host` keeps the KV cache of all layers there.
    """

    shape: Shape
    wish: Wish
    context: int
    kv_type: CacheType
    experts_on_host: int = 0
    cache_on_host: bool = False

    @cached_property
    def units(self) -> int:
        """All layers and the output."""
        return len(self.shape.layers) + 1

    @cached_property
    def cells(self) -> int:
        return self.wish.cells(self.context)

    @cached_property
    def weights(self) -> tuple[int, ...]:
        """Bytes on a device, layer by layer, the output last."""
        return (
            *(
                layer.weights - (layer.experts if number < self.experts_on_host else 0)
                for number, layer in enumerate(self.shape.layers)
            ),
            self.shape.output,
        )

    @cached_property
    def caches(self) -> tuple[int, ...]:
        """Bytes of each layer's memory of the texts, wherever it lies; none of the output."""
        share, flash = KV_SHARE[self.kv_type], self.wish.flash
        return (
            *(
                int(self.cells * share * (layer.cache + (0 if flash else layer.padding)))
                + layer.state * self.wish.sequences
                for layer in self.shape.layers
            ),
            0,
        )

    @cached_property
    def _sums(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        weights = tuple(accumulate(self.weights, initial=0))
        return weights, tuple(accumulate(self.caches, initial=0))

    def share(self, device: Device, first: int, last: int, moved: int = 0) -> Share:
        """Of the layers from `first` up to `last`, on a device to which a matrix may be `moved`."""
        weights, caches = self._sums
        cache = 0 if self.cache_on_host else caches[last] - caches[first]
        compute = self._compute(Work(first < self.units - 1, last == self.units, moved))
        return Share(device.name, last - first, weights[last] - weights[first], cache, compute)

    def host(self, device: Device, layers: int, *, helped: bool = False) -> Share:
        """What stays on the host when the last `layers` leave it; `helped` by a GPU of its own."""
        first = self.units - layers
        _, caches = self._sums
        held = sum(layer.weights for layer in self.shape.layers[:first])
        held += sum(layer.experts for layer in self.shape.layers[first : self.experts_on_host])
        held += self.shape.input + self.wish.extra + (0 if layers else self.shape.host_output)
        cache = caches[-1] if self.cache_on_host else caches[first]
        # Attention is computed where the cache lies.
        works = self.cache_on_host or (first > 0 and not helped)
        compute = self._compute(Work(works, not layers)) + logits(self.shape, self.wish)
        return Share(device.name, first, held, cache, compute)

    def moved(self, layers: int) -> int:
        """The largest matrix on the host when the last `layers` leave it: GPUs are sent it."""
        on_host = self.shape.layers[: max(self.units - layers, self.experts_on_host)]
        return max((layer.largest for layer in on_host), default=0)

    def _compute(self, work: Work) -> int:
        return estimate(self.shape, self.wish, self.wish.seen(self.context), work)


@dataclass(frozen=True)
class Room:
    """Bytes that may be used: of each device, in the order llama.cpp is given them, and the host.

    Integrated GPUs take what they hold from the host's.
    """

    devices: tuple[Device, ...]
    limits: Mapping[str, int]
    host: Device

    @property
    def far(self) -> tuple[Device, ...]:
        return tuple(device for device in self.devices if device.kind == "rpc")

    @property
    def local(self) -> Room:
        own = tuple(device for device in self.devices if device.kind != "rpc")
        return replace(self, devices=own)

    def choices(self) -> Iterator[tuple[Device, ...]]:
        """Devices that may be used together, best first: one, several of this machine, then others.

        A link between machines is slow. Of each list every device has a layer, or the last ones do.
        """
        local, far = self.local.devices, self.far
        for device in local:
            yield (device,)
        for first in range(len(local) - 1):
            yield local[first:]
        for start in range(len(far) - 1, -1, -1):
            for first in range(len(local) + 1):
                yield far[start:] + local[first:]

    def arrange(self, load: Load, layers: int) -> tuple[Share, ...] | None:
        """The last `layers` on devices, the rest on the host, at the end; None if too many."""
        for devices in self.choices() if layers else ((),):
            shares = self._split(load, devices, layers)
            if shares is not None:
                helped = any(device.kind != "rpc" for device in devices)
                whole = (*shares, load.host(self.host, layers, helped=helped))
                if self._fits_host(whole):
                    return whole
        return None

    def may_hold(self, load: Load) -> bool:
        """Whether all memory together is more than the model takes before anything is computed."""
        shared = {device.name for device in self.devices if device.kind == "igpu"}
        there = sum(size for name, size in self.limits.items() if name not in shared)
        return load.shape.size + load.wish.extra + sum(load.caches) <= there

    def holds(self, load: Load, layers: int) -> bool:
        """Whether the host has room when the last `layers` leave it."""
        helped = self.far != self.devices
        return load.host(self.host, layers, helped=helped).total <= self.limits[self.host.name]

    def _fits_host(self, shares: Sequence[Share]) -> bool:
        own = {device.name for device in self.devices if device.kind != "igpu"}
        taken = sum(share.total for share in shares if share.device not in own)
        return taken <= self.limits[self.host.name]

    def _split(self, load: Load, devices: Sequence[Device], layers: int) -> list[Share] | None:
        if load.wish.tensor_split:
            return self._proportions(load, devices, layers)
        full = self._fill(load, devices, layers)
        if full and len(full) > 1 and layers == load.units and len({d.kind for d in devices}) == 1:
            for part in range(1, _STEPS):
                if shares := self._fill(load, devices, layers, part / _STEPS):
                    return shares
        return full

    def _fill(
        self, load: Load, devices: Sequence[Device], layers: int, part: float = 1
    ) -> list[Share] | None:
        """Each device from the last one on as full as that `part` of its limit lets it be."""
        first = load.units - layers
        end, shares = load.units, list[Share]()
        # A GPU of this machine computes for the host, too, and the first one does.
        helper = next((device for device in devices if device.kind != "rpc"), None)
        needed = {device.name for device in (helper, *devices[:1]) if device}
        for device in reversed(devices):
            limit = self.limits[device.name] * part
            moved = load.moved(layers) if device is helper else 0
            needed.discard(device.name)
            starts = range(first + len(needed), end)
            start = bisect_left(
                starts, True, key=lambda n: load.share(device, n, end, moved).total <= limit
            )
            if start < len(starts):
                shares.insert(0, load.share(device, starts[start], end, moved))
                end = starts[start]
            elif device in (helper, devices[0]):
                return None
        return shares if end == first else None

    def _proportions(
        self, load: Load, devices: Sequence[Device], layers: int
    ) -> list[Share] | None:
        """As `tensor_split` says, for the devices in their order."""
        if tuple(devices) != self.devices:
            return None
        first, shares, moved = load.units - layers, list[Share](), load.moved(layers)
        for device, count in zip(devices, counts(load.wish.tensor_split, layers)):
            if not count:
                continue
            share = load.share(device, first, first + count, moved if device.kind != "rpc" else 0)
            if share.total > self.limits[device.name]:
                return None
            moved = moved if device.kind == "rpc" else 0
            shares.append(share)
            first += count
        return shares


def counts(proportions: Sequence[float], layers: int) -> list[int]:
    """Layers on each device, as llama.cpp divides them by a tensor split of these proportions."""
    ends = [sum(proportions[: n + 1]) / sum(proportions) for n in range(len(proportions))]
    where = [bisect_right(ends, layer / layers) for layer in range(layers)]
    return [where.count(device) for device in range(len(proportions))]
