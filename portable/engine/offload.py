"""Devices and sizes -> layers, context, slots, and the reason in words. Pure: asks no driver."""

from __future__ import annotations

from dataclasses import dataclass

from portable.engine.config import GpuLayers
from portable.errors import NotEnoughMemory

GIB = 1 << 30

# Tokens. With fewer a slot, requests keep pushing each other out.
_A_SLOT = _LEAST_CONTEXT = 512
# More rows a step make every one of them slow; who knows better names a number.
MOST_SLOTS = 32

# llama.cpp's word for "every layer, the output too".
ALL_LAYERS = -1


@dataclass(frozen=True, slots=True)
class Device:
    """One GPU as the backend registry names it; memory in bytes."""

    name: str
    description: str
    free: int
    total: int

    def __str__(self) -> str:
        memory = f"{self.free / GIB:.1f}/{self.total / GIB:.1f} GiB free"
        return f"{self.name} ({self.description}, {memory})"


@dataclass(frozen=True, slots=True)
class Offload:
    """How many layers are asked for, and why."""

    layers: int
    reason: str


def plan(
    asked: GpuLayers, devices: list[Device], backends: list[str], visible: str | None = None
) -> Offload:
    """Layers for the GPU: all of them when one is visible and compiled in, else none.

    `visible` is CUDA_VISIBLE_DEVICES, which the CUDA backend obeys and which may explain it.
    """
    if asked == 0:
        return Offload(0, "CPU, as asked by --gpu-layers 0")
    if not devices:
        return Offload(0, _why_no_gpu(asked, backends, visible))
    names = ", ".join(map(str, devices))
    if isinstance(asked, int):
        return Offload(asked, f"{asked} layers on {names}, as asked")
    return Offload(ALL_LAYERS, f"all layers on {names}")


def fitting_context(wanted: int, token_bytes: float, free: int) -> int:
    """Tokens of a context that nobody named: `wanted`, halved until it takes half of `free` bytes.

    At least 512, whether there is room or not: that is for `check_memory` to say.
    """
    context = wanted
    while context > _LEAST_CONTEXT and context * token_bytes > free / 2:
        context = max(_LEAST_CONTEXT, context // 2)
    return context


def auto_slots(context: int, token_bytes: float, free: int, *, apart: bool) -> tuple[int, str]:
    """How many requests decode together, and why.

    They share `context` tokens; `apart` each has as many, in an eighth of the `free` bytes at most.
    """
    if not apart:
        count = min(MOST_SLOTS, max(1, context // _A_SLOT))
        return count, f"--parallel auto: {count}, sharing {context} tokens"
    size = max(1, context * token_bytes)
    count = int(min(MOST_SLOTS, max(1, free / 8 // size)))
    each = f"{context} tokens each, {size / GIB:.2f} GiB"
    return count, f"--parallel auto: {count}, {each} of {free / GIB:.1f} GiB free"


def _why_no_gpu(asked: GpuLayers, backends: list[str], visible: str | None) -> str:
    gpu = [name for name in backends if name not in ("CPU", "RPC", "BLAS")]
    why = f"{', '.join(gpu)} sees no GPU" if gpu else "llama.cpp is built without a GPU backend"
    if "CUDA" in gpu and visible is not None:
        why += f" with CUDA_VISIBLE_DEVICES={visible!r}"
    wish = "" if asked == "auto" else f", so --gpu-layers {asked} has no effect"
    return f"CPU: {why}{wish}"


def check_memory(weights: int, cache: int, available: int, what: str = "the model") -> None:
    """Raise NotEnoughMemory unless weights and KV cache (bytes) fit what the machine has free."""
    need = weights + cache
    if need > available:
        raise NotEnoughMemory(
            f"{what} needs {need / GIB:.1f} GiB of memory"
            f" ({weights / GIB:.1f} weights, {cache / GIB:.1f} context),"
            f" {available / GIB:.1f} are free",
            hint="try a smaller --context or a smaller --quant",
        )
