"""Devices, a model's shape and what is asked -> what lies where, and why. Pure: asks no driver."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from portable.engine.config import KvType
from portable.engine.offload.device import GIB, Device, margin
from portable.engine.offload.packing import Load, Room, Share
from portable.engine.offload.shape import Shape
from portable.engine.offload.wish import Wish
from portable.errors import NotEnoughMemory, UsageError

# Tokens. Below the first a KV cache of half the size comes first; no context gets below the other.
_SHORT, _LEAST_CONTEXT = 4096, 512


@dataclass(frozen=True, slots=True)
class Plan:
    """What llama.cpp is told, and what comes of it.

    `shares` are the devices in use, in the order that llama.cpp is given them, the host last;
    `tensor_split` has a number for each but the host. The experts of the first `experts_on_host`
    layers stay on the host, and so does the KV cache if `cache_on_host`. `reason` is one line for
    the user.
    """

    context: int
    kv_type: KvType
    slots: int
    gpu_layers: int
    tensor_split: tuple[float, ...]
    experts_on_host: int
    cache_on_host: bool
    shares: tuple[Share, ...]
    reason: str

    @property
    def devices(self) -> tuple[str, ...]:
        """The names of the devices that hold layers, but the host."""
        return tuple(share.device for share in self.shares[:-1])


def plan(
    shape: Shape,
    devices: Sequence[Device],
    wish: Wish,
    compute: Mapping[str, int] | None = None,
    unused: str = "no GPU is used",
) -> Plan:
    """Everything that is asked, as much of it on devices as has room.

    `devices` has the host among them; `compute` has what a dry run said of the buffers to compute
    in, by device; `unused` says why there is no GPU. Tried in this order: a shorter context, down
    to 4096 tokens, if none was asked; a KV cache of q8_0, if no type was; still shorter ones.
    Raises NotEnoughMemory, and UsageError for devices that there are not.
    """
    room, wish = _room(devices, wish)
    for context, kv_type in _contexts(shape, wish):
        load = Load(shape, wish, context, kv_type, compute or {})
        if found := _place(load, room):
            return _told(*found, room, unused)
    raise _too_large(Load(shape, wish, *_least(shape, wish), compute or {}), room)


def _room(devices: Sequence[Device], wish: Wish) -> tuple[Room, Wish]:
    """What may be used, in llama.cpp's order: other machines, then the GPUs of this one."""
    host = next(device for device in devices if device.kind == "cpu")
    usable = [device for device in devices if device.kind != "cpu"]
    if wish.devices is not None:
        names = {device.name: device for device in usable}
        if missing := [name for name in wish.devices if name not in names]:
            raise UsageError(
                f"there is no device {', '.join(missing)}",
                hint=f"there are: {', '.join(names) or 'none but the CPU'}",
                param="device",
            )
        usable = [names[name] for name in wish.devices]
    elif any(device.kind == "gpu" for device in usable):
        usable = [device for device in usable if device.kind != "igpu"]
    if wish.tensor_split and len(wish.tensor_split) != len(usable):
        raise UsageError(
            f"--tensor-split has {len(wish.tensor_split)} numbers for {len(usable)} devices",
            hint="give one number for each device",
            param="tensor_split",
        )
    order = sorted(range(len(usable)), key=lambda n: (usable[n].kind != "rpc", n == wish.main_gpu))
    split = tuple(wish.tensor_split[n] for n in order) if wish.tensor_split else ()
    asked = wish.gpu_layers != "auto"
    limits = {d.name: max(0, d.free - (0 if asked else margin(d))) for d in usable}
    limits[host.name] = max(0, host.free - margin(host))
    room = Room(tuple(usable[n] for n in order), limits, host)
    return room, replace(wish, tensor_split=split)


def _contexts(shape: Shape, wish: Wish) -> Iterator[tuple[int, KvType]]:
    """Contexts and types of the KV cache, the best first."""
    kv_type: KvType = "f16" if wish.kv_type == "auto" else wish.kv_type
    may_shrink = wish.kv_type == "auto" and wish.flash and shape.quantizes_cache
    context = wish.context or min(
        shape.trained_context or wish.default_context, wish.default_context
    )
    yield context, kv_type
    while not wish.context and context > _SHORT:
        context = max(_SHORT, context // 2)
        yield context, kv_type
    if may_shrink:
        kv_type = "q8_0"
        yield context, kv_type
    while not wish.context and context > _LEAST_CONTEXT:
        context = max(_LEAST_CONTEXT, context // 2)
        yield context, kv_type


def _least(shape: Shape, wish: Wish) -> tuple[int, KvType]:
    *_, last = _contexts(shape, wish)
    return last


def _place(load: Load, room: Room) -> tuple[Load, tuple[Share, ...]] | None:
    """The most layers on devices; experts leave them before layers do, and layers before the cache.

    None if it fits in no way, or not as it was asked.
    """
    found = _with_experts(load, room)
    if room.devices and (found is None or found[1][-1].layers >= load.units - 1):
        # Not one layer has room beside its cache.
        without = _with_experts(replace(load, cache_on_host=True), room)
        if without and (found is None or without[1][-1].layers < load.units - 1):
            return without
    return found


def _with_experts(load: Load, room: Room) -> tuple[Load, tuple[Share, ...]] | None:
    asked, most = _asked(load, room)
    all_layers = len(load.shape.layers)
    experts = range(all_layers + 1) if load.shape.has_experts and room.devices else range(1)
    if isinstance(load.wish.cpu_moe, int):
        experts = range(min(load.wish.cpu_moe, all_layers), min(load.wish.cpu_moe, all_layers) + 1)
    for count in experts:
        tried = replace(load, experts_on_host=count)
        if shares := room.arrange(tried, most):
            return tried, shares
    fewest = most if asked else 0
    tried = replace(load, experts_on_host=experts[-1])
    for layers in range(most - 1, fewest - 1, -1):
        if shares := room.arrange(tried, layers):
            return tried, shares
    return None


def _asked(load: Load, room: Room) -> tuple[bool, int]:
    """Whether a number of layers was asked for, and the most that may leave the host."""
    layers = load.wish.gpu_layers
    if not room.devices:
        return True, 0
    if isinstance(layers, int):
        return True, min(layers, load.units)
    most = load.units if load.wish.most_layers is None else min(load.units, load.wish.most_layers)
    return layers == "all" and load.wish.most_layers is None, most


def _told(load: Load, shares: tuple[Share, ...], room: Room, unused: str) -> Plan:
    layers = load.units - shares[-1].layers
    return Plan(
        context=load.context,
        kv_type=load.kv_type,
        slots=load.wish.slots,
        gpu_layers=layers,
        tensor_split=tuple(float(share.layers) for share in shares[:-1]),
        experts_on_host=load.experts_on_host if layers else 0,
        cache_on_host=load.cache_on_host,
        shares=shares,
        reason=unused if not room.devices else f"{layers} of {load.units} layers on devices",
    )


def _too_large(load: Load, room: Room) -> NotEnoughMemory:
    host = load.host(room.host, 0)
    return NotEnoughMemory(
        f"the model needs {host.total / GIB:.1f} GiB of memory"
        f" ({host.weights / GIB:.1f} weights, {host.cache / GIB:.1f} context),"
        f" {room.host.free / GIB:.1f} are free",
        hint="try a smaller --context or a smaller --quant",
    )
