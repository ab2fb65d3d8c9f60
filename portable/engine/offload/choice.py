"""Which devices a plan may use, in which order, and how much of each. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from portable.engine.offload.device import MARGINS, Device
from portable.engine.offload.packing import Room
from portable.engine.offload.wish import Wish
from portable.errors import UsageError


def room_for(devices: Sequence[Device], wish: Wish) -> tuple[Room, Wish]:
    """In llama.cpp's order: other machines, then the GPUs of this one; and the wish in that order.

    `devices` has the host among them. Raises UsageError for devices that there are not.
    """
    host = next(device for device in devices if device.kind == "cpu")
    used = _used([device for device in devices if device.kind != "cpu"], wish)
    if len(wish.tensor_split) > len(used):
        raise UsageError(
            f"--tensor-split has {len(wish.tensor_split)} shares for {len(used)} devices",
            hint="one share a device",
            param="tensor_split",
        )
    order = sorted(range(len(used)), key=lambda n: used[n].kind != "rpc")
    shares = wish.tensor_split + (0.0,) * len(used)
    split = tuple(shares[n] for n in order) if wish.tensor_split else ()
    usable = tuple(used[n] for n in order) if wish.gpu_layers != 0 else ()
    return Room(usable, _limits([host, *used], wish), host), replace(wish, tensor_split=split)


def _used(devices: Sequence[Device], wish: Wish) -> list[Device]:
    used = _worth_using(devices) if wish.devices is None else _named(devices, wish.devices)
    if wish.main_gpu is None:
        return used
    if wish.main_gpu >= len(used):
        raise UsageError(
            f"--main-gpu {wish.main_gpu} is not there: {len(used)} devices are used",
            hint="they are counted from 0",
            param="main_gpu",
        )
    return [used[wish.main_gpu]]


def _worth_using(devices: Sequence[Device]) -> list[Device]:
    """Without integrated GPUs beside others; one of them at most, for all have the same memory."""
    gpus = any(device.kind == "gpu" for device in devices)
    shared = [] if gpus else [device.name for device in devices if device.kind == "igpu"][:1]
    return [device for device in devices if device.kind != "igpu" or device.name in shared]


def _named(devices: Sequence[Device], names: Sequence[str]) -> list[Device]:
    known = {device.name.lower(): device for device in devices}
    if missing := [name for name in names if name.lower() not in known]:
        there = ", ".join(device.name for device in devices) or "there are none but the CPU"
        raise UsageError(
            f"--device {','.join(missing)} is not there",
            hint=f"choose from: {there}",
            param="device",
        )
    return [known[name.lower()] for name in names]


def _limits(devices: Sequence[Device], wish: Wish) -> dict[str, int]:
    """Who asks for a number of layers gets it up to the last byte of a GPU."""
    asked = wish.gpu_layers != "auto"
    margins = {d.name: 0 if asked and d.kind != "cpu" else MARGINS[d.kind] for d in devices}
    limits = {d.name: max(0, d.free - margins[d.name]) for d in devices}
    return {name: min(limit, wish.caps.get(name, limit)) for name, limit in limits.items()}
