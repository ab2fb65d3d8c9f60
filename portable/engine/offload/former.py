"""All layers on the GPUs or none, by what is asked and what is there. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from portable.engine.config import GpuLayers
from portable.engine.offload.device import Device

# llama.cpp's word for "every layer, the output too".
ALL_LAYERS = -1


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


def _why_no_gpu(asked: GpuLayers, backends: list[str], visible: str | None) -> str:
    gpu = [name for name in backends if name not in ("CPU", "RPC", "BLAS")]
    why = f"{', '.join(gpu)} sees no GPU" if gpu else "llama.cpp is built without a GPU backend"
    if "CUDA" in gpu and visible is not None:
        why += f" with CUDA_VISIBLE_DEVICES={visible!r}"
    wish = "" if asked == "auto" else f", so --gpu-layers {asked} has no effect"
    return f"CPU: {why}{wish}"
