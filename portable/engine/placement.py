"""A plan in llama.cpp's own parameters, and the host as a device; decides nothing."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Sequence

from portable.engine.config import EngineConfig, Rope
from portable.engine.native import device_handle, lib, libggml
from portable.engine.offload.device import Device

_LOAD_MODES = {
    "auto": lib.LLAMA_LOAD_MODE_AUTO,
    "none": lib.LLAMA_LOAD_MODE_NONE,
    "mmap": lib.LLAMA_LOAD_MODE_MMAP,
    "mlock": lib.LLAMA_LOAD_MODE_MLOCK,
    "mmap+mlock": lib.LLAMA_LOAD_MODE_MMAP_MLOCK,
    "dio": lib.LLAMA_LOAD_MODE_DIRECT_IO,
}
_ROPE_SCALINGS = {
    "none": lib.LLAMA_ROPE_SCALING_TYPE_NONE,
    "linear": lib.LLAMA_ROPE_SCALING_TYPE_LINEAR,
    "yarn": lib.LLAMA_ROPE_SCALING_TYPE_YARN,
}


class _Override(ctypes.Structure):
    """llama_model_tensor_buft_override."""

    _fields_ = (("pattern", ctypes.c_char_p), ("buft", ctypes.c_void_p))


def why_no_device(config: EngineConfig, devices: Sequence[Device], backends: Sequence[str]) -> str:
    """Why everything lies on the host, if it does."""
    if config.gpu_layers == 0 or config.devices == ():
        flag = "--device none" if config.devices == () else "--gpu-layers 0"
        return f"CPU, as asked by {flag}"
    gpu = [name for name in backends if not name.startswith(("CPU", "RPC", "BLAS"))]
    why = f"{', '.join(gpu)} sees no GPU" if gpu else "llama.cpp is built without a GPU backend"
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if "CUDA" in gpu and visible is not None:
        why += f" with CUDA_VISIBLE_DEVICES={visible!r}"
    wish = (
        ""
        if config.gpu_layers == "auto"
        else f", so --gpu-layers {config.gpu_layers} has no effect"
    )
    return f"CPU: {'no device has room' if devices else why}{wish}"


def model_params(
    config: EngineConfig,
    devices: Sequence[Device],
    layers: int,
    split: Sequence[float] = (),
    experts: int = 0,
) -> lib.llama_model_params:
    """The last `layers` on these devices, in shares of `split`; the experts of the first `experts`
    layers stay on the host."""
    params = lib.llama_model_default_params()
    handles = (ctypes.c_void_p * (len(devices) + 1))(*(device_handle(d.name) for d in devices))
    overrides = (_Override * 2)()
    if experts:
        overrides[0] = _Override(experts_pattern(experts), _host_buffers())
        params.tensor_buft_overrides = ctypes.addressof(overrides)
    if split:
        params.tensor_split = (ctypes.c_float * lib.llama_max_devices())(*split)
    params.devices = ctypes.addressof(handles)
    params.n_gpu_layers = layers if devices else 0
    params.load_mode = _LOAD_MODES[config.load_mode]
    params.use_extra_bufts = config.repack
    params.kept = handles, overrides  # llama.cpp reads them while it loads
    return params


def experts_pattern(layers: int) -> bytes:
    """The expert tensors of the first `layers`, as a regular expression of C++."""
    numbers = "|".join(map(str, range(layers)))
    return rf"^blk\.({numbers})\.ffn_(up|down|gate|gate_up)_(ch|)exps".encode()


def set_rope(params: lib.llama_context_params, rope: Rope) -> None:
    """Positions as asked, where that differs from the model's own way."""
    if rope.scaling:
        params.rope_scaling_type = _ROPE_SCALINGS[rope.scaling]
    if rope.scale:
        params.rope_freq_scale = 1 / rope.scale
    if rope.freq_base:
        params.rope_freq_base = rope.freq_base
    for name in (
        "yarn_orig_ctx",
        "yarn_ext_factor",
        "yarn_attn_factor",
        "yarn_beta_fast",
        "yarn_beta_slow",
    ):
        if (value := getattr(rope, name)) is not None:
            setattr(params, name, value)


def _host_buffers() -> int:
    find = libggml.ggml_backend_cpu_buffer_type
    find.restype = ctypes.c_void_p
    found: int = find()
    return found
