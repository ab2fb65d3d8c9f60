"""A plan in one line that its user understands. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from portable.engine.offload.device import GIB, MIB, Device
from portable.engine.offload.packing import Load, Room, Share


def size(count: int) -> str:
    return f"{count / GIB:.1f} GiB" if count >= GIB else f"{count / MIB:.0f} MiB"


def reason(load: Load, shares: Sequence[Share], room: Room, unused: str) -> str:
    """Why the layers lie where they do, and what was given up for it."""
    layers = load.units - shares[-1].layers
    why = _away(load, shares[:-1], room) if layers else _on_host(load, room, unused)
    return why + "".join(f"; {change}" for change in _changes(load, layers))


def _away(load: Load, shares: Sequence[Share], room: Room) -> str:
    if load.wish.gpu_layers != "auto":
        return f"as asked by --gpu-layers {load.wish.gpu_layers}"
    used, far = [share.device for share in shares], [device.name for device in room.far]
    if helpers := [name for name in used if name in far and load.wish.devices is None]:
        return f"what has no room here is on {', '.join(helpers)}"
    rest = "all layers" if sum(s.layers for s in shares) == load.units else "no more"
    return f"{', '.join(used)} {'has' if len(used) == 1 else 'have'} room for {rest}"


def _on_host(load: Load, room: Room, unused: str) -> str:
    if load.wish.gpu_layers == 0:
        return "CPU, as asked by --gpu-layers 0"
    auto = load.wish.gpu_layers == "auto" and load.wish.devices is None
    if wanted := room.local.devices if auto else room.devices:
        return f"CPU: {_names(wanted)} has no room for a layer"
    if room.far:  # for what this machine cannot hold
        names = _names(room.far)
        return f"CPU: it fits in this machine's memory without {names}; --gpu-layers all uses it"
    return unused or "CPU"


def _names(devices: Sequence[Device]) -> str:
    return ", ".join(device.name for device in devices)


def _changes(load: Load, layers: int) -> list[str]:
    wish, said = load.wish, []
    if layers and load.experts_on_host:
        moved = min(load.experts_on_host, len(load.shape.layers))
        said.append(f"the experts of {moved} layers stay on the CPU")
    if load.cache_on_host:
        said.append("the context stays on the CPU")
    if load.kv_type != wish.kv_type and load.kv_type != "f16":
        said.append(f"a KV cache of {load.kv_type}, for f16 has no room")
    if load.context < wish.longest(load.shape):
        said.append(f"a context of {load.context} tokens, for more has no room")
    return said


def too_large(load: Load, room: Room) -> str:
    """What is needed in all, and what there is."""
    whole = load.host(room.host, 0)
    parts = f"{size(whole.weights)} weights, {size(whole.cache)} context, "
    parts += f"{size(whole.compute)} to compute in"
    there = f"{size(room.limits[room.host.name])} of this machine's can be used"
    for device in room.devices:
        there += f", {size(room.limits[device.name])} of {device.name}"
    return f"{load.wish.what} needs {size(whole.total)} of memory ({parts}); {there}"
