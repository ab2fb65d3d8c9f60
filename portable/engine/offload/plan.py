"""Devices, a model's shape and what is asked -> what lies where, and why. Pure: asks no driver."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from portable.engine.offload import words
from portable.engine.offload.choice import room_for
from portable.engine.offload.device import MIB, Device
from portable.engine.offload.packing import Load, Room, Share
from portable.engine.offload.shape import BITS, CacheType, Shape
from portable.engine.offload.wish import Wish
from portable.errors import NotEnoughMemory

# Tokens. Below the first a KV cache of half the size comes first; no context gets below the other.
SHORT_CONTEXT, LEAST_CONTEXT = 4096, 512

Placed = tuple[Load, tuple[Share, ...]]


@dataclass(frozen=True, slots=True)
class Plan:
    """What llama.cpp is told, and what comes of it.

    `shares` are the devices in use, in the order that llama.cpp is given them, the host last;
    `tensor_split` has a number for each but the host. The experts of the first `experts_on_host`
    layers stay on the host, and so does the KV cache if `cache_on_host`. `reason` is one line for
    the user.
    """

    context: int
    kv_type: CacheType
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
    unused: str = "",
) -> Plan:
    """What is asked, with as many layers on devices as have room.

    `devices` has the host among them; `unused` says why there is no GPU. What does not fit is tried
    with, in this order: a context of 4096 tokens at least, if none was asked; a KV cache of q8_0,
    if no type was; a shorter context still. For each of these layers leave the host as long as
    there is room, see `_place`.
    Raises NotEnoughMemory with what fits, and UsageError for devices that there are not.
    """
    room, wish = room_for(devices, wish)
    for context, kv_type in _contexts(shape, wish):
        load = Load(shape, wish, context, kv_type)
        if room.may_hold(load) and (placed := _place(load, room)):
            return _told(placed, room, unused)
    least = Load(shape, wish, *_least(shape, wish))
    raise NotEnoughMemory(words.too_large(least, room), hint=_smaller(least, room))


def fits(shape: Shape, devices: Sequence[Device], wish: Wish) -> bool:
    """Whether there is a plan at all."""
    try:
        plan(shape, devices, wish)
    except NotEnoughMemory:
        return False
    return True


def step_down(shape: Shape, wish: Wish, tried: Plan) -> tuple[Wish, str] | None:
    """The next smaller wish after a plan that ran out of memory, and what it gives up, in words.

    Devices get a quarter less than they were given, until none has a layer, which moves experts to
    the host first, then layers; then the KV cache gets shorter values, then the context shorter, as
    far as nobody asked for them. None when nothing is left to give up.
    """
    if tried.gpu_layers:
        caps = {share.device: _three_quarters(share.total) for share in tried.shares[:-1]}
        given = ", ".join(f"{words.size(size)} on {name}" for name, size in caps.items())
        return replace(wish, gpu_layers="auto", caps=wish.caps | caps), f"at most {given}"
    if tried.kv_type == "f16" and _may_quantize(shape, wish):
        most = min(tried.context, wish.default_context)
        return replace(wish, kv_type="q8_0", default_context=most), "a KV cache of q8_0"
    if wish.context or tried.context <= LEAST_CONTEXT:
        return None
    context = max(LEAST_CONTEXT, tried.context // 2)
    return replace(wish, default_context=context), f"a context of {context}"


def _three_quarters(count: int) -> int:
    """Each step costs a load: what little is left in the end goes at once."""
    return count * 3 // 4 if count > 512 * MIB else 0


def _may_quantize(shape: Shape, wish: Wish) -> bool:
    return wish.kv_type == "auto" and wish.flash and shape.quantizes_cache


def _contexts(shape: Shape, wish: Wish) -> Iterator[tuple[int, CacheType]]:
    """Contexts and types of the KV cache, the best first."""
    kv_type: CacheType = "f16" if wish.kv_type == "auto" else wish.kv_type
    context = wish.longest(shape)
    yield context, kv_type
    while not wish.context and context > SHORT_CONTEXT:
        context = max(SHORT_CONTEXT, context // 2)
        yield context, kv_type
    if _may_quantize(shape, wish):
        kv_type = "q8_0"
        yield context, kv_type
    while not wish.context and context > LEAST_CONTEXT:
        context = max(LEAST_CONTEXT, context // 2)
        yield context, kv_type


def _least(shape: Shape, wish: Wish) -> tuple[int, CacheType]:
    *_, last = _contexts(shape, wish)
    return last


def _place(load: Load, room: Room) -> Placed | None:
    """The most layers on devices, and if need be on other machines; None if it fits in no way.

    Experts leave the devices before layers do, and layers before the KV cache: that goes when not
    one layer has room beside its own.
    """
    if load.wish.gpu_layers == "auto" and load.wish.devices is None and room.far:
        return _layers(load, room.local) or _fewest(load, room)
    return _layers(load, room)


def _layers(load: Load, room: Room) -> Placed | None:
    placed = _most(load, room)
    if room.devices and (placed is None or _is_bare(placed)):
        without = _most(replace(load, cache_on_host=True), room)
        if without and (placed is None or not _is_bare(without)):
            return without
    return placed


def _is_bare(placed: Placed) -> bool:
    """Whether no layer left the host, but the output perhaps."""
    load, shares = placed
    return shares[-1].layers >= load.units - 1


def _most(load: Load, room: Room) -> Placed | None:
    """As many layers as have room, or as were asked for.

    All of them with as few experts on the host as can be, or fewer with as many as it can take.
    """
    fewest, most = _bounds(load, room)
    ways = [replace(load, experts_on_host=count) for count in _experts(load, room)]
    for tried in ways:
        if shares := room.arrange(tried, most):
            return tried, shares
    for layers in range(most - 1, fewest - 1, -1):
        held = bisect_right(ways, False, key=lambda way: not room.holds(way, layers))
        if held and (shares := room.arrange(ways[held - 1], layers)):
            return ways[held - 1], shares
    return None


def _fewest(load: Load, room: Room) -> Placed | None:
    """As few layers on other machines as let the others stay on this one."""
    load = replace(load, experts_on_host=_experts(load, room)[0])
    for layers in range(1, load.units + 1):
        if shares := room.arrange(load, layers):
            return load, shares
    return None


def _bounds(load: Load, room: Room) -> tuple[int, int]:
    asked = load.wish.gpu_layers
    if not room.devices:
        return 0, 0
    if asked == "auto":
        return 0, load.units
    most = load.units if asked == "all" else min(asked, load.units)
    return most, most


def _experts(load: Load, room: Room) -> Sequence[int]:
    """Of how many layers the experts may stay on the host, fewest first."""
    every, asked = len(load.shape.layers), load.wish.cpu_moe
    if not load.shape.has_experts or not room.devices:
        return (0,)
    if asked == "auto":
        return range(every + 1)
    return (every if asked == "all" else min(asked, every),)


def _told(placed: Placed, room: Room, unused: str) -> Plan:
    load, shares = placed
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
        reason=words.reason(load, shares, room, unused),
    )


def _smaller(load: Load, room: Room) -> str:
    """What would fit instead, as far as that is known here."""
    shape, wish, devices = load.shape, load.wish, (*room.devices, room.host)
    if wish.gpu_layers != "auto" and room.devices:
        relaxed = replace(wish, gpu_layers="auto")
        if fits(shape, devices, relaxed):
            layers = plan(shape, devices, relaxed).gpu_layers
            return f"{layers} layers fit: leave --gpu-layers out, or say {layers}"
    if wish.context:
        shorter = replace(wish, context=0, default_context=wish.context)
        if fits(shape, devices, shorter):
            return f"try --context {plan(shape, devices, shorter).context}"
    for quant in BITS:  # the largest first
        smaller = shape.quantized(quant)
        if 0 < smaller.size < shape.size and fits(smaller, devices, wish):
            return f"--quant {quant} would fit, which takes about {words.size(smaller.size)}"
    return "try a smaller --context or a smaller --quant, or close other programs"
