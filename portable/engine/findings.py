"""Why a GPU that is there is not used, or not as it should be: facts in, findings out. Pure."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from portable.engine import death
from portable.engine.adapters import Adapter
from portable.engine.nvidia import Gpu, Nvidia
from portable.engine.offload.device import GIB, Device

# ggml's names of the backends that compute on a vendor's GPUs, the best one first.
BACKENDS = {
    "NVIDIA": ("CUDA", "Vulkan"),
    "AMD": ("ROCm", "Vulkan"),
    "Intel": ("Vulkan", "SYCL"),
    "Apple": ("MTL",),
}
# What each of them reads to choose among the GPUs.
_CHOICES = {
    "CUDA": ("CUDA_VISIBLE_DEVICES",),
    "ROCm": ("HIP_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES", "CUDA_VISIBLE_DEVICES"),
    "Vulkan": ("GGML_VK_VISIBLE_DEVICES", "GGML_DISABLE_VULKAN"),
    "SYCL": ("ONEAPI_DEVICE_SELECTOR",),
}
# How descriptions of Vulkan's devices begin.
_MAKERS = {"NVIDIA": "NVIDIA", "AMD": "AMD|Radeon", "Intel": "Intel|Mesa Intel", "Apple": "Apple"}
_OWN = {"CUDA": "NVIDIA", "ROCm": "AMD", "SYCL": "Intel", "MTL": "Apple"}
RELOAD = "sudo modprobe -r nvidia_uvm && sudo modprobe nvidia_uvm"
# What CUDA says when it cannot be started, and what mends it.
_CUDA_SAYS = (
    ("driver version is insufficient", "driver_old"),
    ("forward compatibility was attempted|unsupported display driver", "driver_mismatch"),
    ("unknown error", "resumed"),
    ("no CUDA-capable device", "no_device"),
    ("busy or unavailable", "busy"),
    ("out of memory", "taken"),
)

_INSTALL = "install it (Ubuntu: sudo ubuntu-drivers install) and restart"
# By what NVML says: a finding's code, why, and what mends it.
_DRIVER = {
    "container": (
        "container",
        "this container was started without it",
        "docker run --gpus all … (with NVIDIA's container toolkit on the host)",
    ),
    "nouveau": (
        "driver_missing",
        "the kernel drives it by nouveau, which cannot compute, not by NVIDIA's driver",
        _INSTALL,
    ),
    "library": ("driver_missing", "NVIDIA's driver is not installed", _INSTALL),
    "driver": (
        "driver_missing",
        "NVIDIA's driver is not loaded, as after a new kernel or with Secure Boot",
        "sudo modprobe nvidia, which says why",
    ),
    "mismatch": (
        "driver_mismatch",
        "its driver was updated while the old one was running",
        "restart the machine",
    ),
    "permission": (
        "permission",
        "this user may not use it",
        "sudo usermod -aG video,render $USER, and log in again",
    ),
    "lost": ("lost", "it does not answer any more", "restart the machine"),
}


@dataclass(frozen=True, slots=True)
class Finding:
    """`code` is for programs; `mend` is a command, or what else to do. A `note` warns nobody."""

    code: str
    what: str
    mend: str = ""
    note: bool = False

    def __str__(self) -> str:
        return f"{self.what}; {self.mend}" if self.mend else self.what


def ask_doctor(backend: str) -> str:
    return f"portable doctor shows how to build it with {_spoken(backend)}"


@dataclass(frozen=True, slots=True)
class Facts:
    """What is known of a machine's GPUs, and of the llama.cpp that may compute on them.

    `backends` and `devices` are ggml's names and what they see, `said` is what it said while they
    were loaded; the backends `unloaded` are there as files, with the loader's words about them.
    `build` tells what builds llama.cpp with a backend.
    """

    backends: Sequence[str] = ()
    devices: Sequence[Device] = ()
    adapters: Sequence[Adapter] = ()
    nvidia: Nvidia = field(default_factory=Nvidia)
    environment: Mapping[str, str] = field(default_factory=dict)
    container: bool = False
    said: str = ""
    unloaded: Mapping[str, str] = field(default_factory=dict)
    pid: int = 0
    build: Callable[[str], str] = ask_doctor


def find(facts: Facts) -> list[Finding]:
    """What keeps GPUs from being used; nothing where all are used that there are."""
    found: list[Finding] = []
    for vendor in BACKENDS:
        if _is_there(vendor, facts) and not _is_seen(vendor, facts):
            found.append(_unseen(vendor, facts))
    return [*found, *_taken(facts)]


def _is_there(vendor: str, facts: Facts) -> bool:
    if vendor == "NVIDIA" and (facts.nvidia.gpus or facts.nvidia.trouble not in ("", "library")):
        return True
    return any(adapter.vendor == vendor for adapter in facts.adapters)


def _is_seen(vendor: str, facts: Facts) -> bool:
    return any(
        _OWN.get(device.backend) == vendor
        or (device.backend == "Vulkan" and re.match(_MAKERS[vendor], device.description))
        for device in facts.devices
    )


def _unseen(vendor: str, facts: Facts) -> Finding:
    usable = [name for name in BACKENDS[vendor] if name in facts.backends]
    if vendor == "NVIDIA" and (broken := _driver(facts)):
        return broken
    name = _name(vendor, facts)
    if not usable:
        return _no_backend(name, vendor, facts)
    for variable in (each for backend in usable for each in _CHOICES.get(backend, ())):
        if (value := facts.environment.get(variable)) is not None:
            return Finding(
                "hidden", f"{name} is not used: {variable}={value!r} hides it", f"unset {variable}"
            )
    if usable[0] == "CUDA":
        return _cuda(name, facts)
    return _no_access(name, usable[0], facts)


def _no_backend(name: str, vendor: str, facts: Facts) -> Finding:
    note = _is_integrated(vendor, facts)
    for backend in BACKENDS[vendor]:
        if backend in facts.unloaded:
            cause = death.explain(None, facts.unloaded[backend])
            what = f"{name} is not used: the backend {backend} cannot be loaded: {cause.what}"
            return Finding("unloaded", what, cause.mend or facts.build(backend), note)
    best = BACKENDS[vendor][0]
    what = f"{name} is not used: llama.cpp is built without {_spoken(best)}"
    return Finding("no_backend", what, facts.build(best), note)


def _driver(facts: Facts) -> Finding | None:
    """NVIDIA's driver itself, which NVML comes with, does not work."""
    trouble: str = facts.nvidia.trouble
    drivers = {adapter.driver for adapter in facts.adapters if adapter.vendor == "NVIDIA"}
    if trouble == "library" and facts.container:
        trouble = "container"
    elif trouble in ("library", "driver") and drivers & {"nouveau", "nova"}:
        trouble = "nouveau"
    if trouble not in _DRIVER or (trouble == "lost" and facts.nvidia.gpus):
        return None
    code, why, mend = _DRIVER[trouble]
    return Finding(code, f"an NVIDIA GPU is not used: {why}", mend)


def _cuda(name: str, facts: Facts) -> Finding:
    """CUDA is compiled in, the driver works, and yet there is no device."""
    words = re.search(r"failed to initialize (?:CUDA|ROCm): (.+)", facts.said)
    said = words[1].strip() if words else ""
    code = _code(said)
    if code == "driver_old":
        runs = f", and runs CUDA {facts.nvidia.cuda} at most" if facts.nvidia.cuda else ""
        what = f"driver {facts.nvidia.driver} is older than llama.cpp's CUDA{runs}"
        return Finding(
            code,
            f"{name} is not used: {what}",
            "update NVIDIA's driver, or build with an older CUDA",
        )
    if code == "resumed":
        what = f"{name} is not used: CUDA does not start ({said}), as after the machine slept"
        return Finding(code, what, RELOAD)
    what = f"CUDA says: {said}" if said else "CUDA sees no GPU"
    return Finding(code, f"{name} is not used: {what}", _mend(code))


def gpu_failed(said: str) -> Finding | None:
    """CUDA's last words at work, before ggml aborts; None for a want of memory, which may pass."""
    code = _code(said)
    return None if code == "taken" else Finding(code, f"the GPU failed: {said}", _mend(code))


def _code(said: str) -> str:
    return next((code for pattern, code in _CUDA_SAYS if re.search(pattern, said)), "other")


def _mend(code: str) -> str:
    mends = {"driver_mismatch": "restart the machine", "resumed": RELOAD}
    return mends.get(code, "nvidia-smi must show it, and who uses it")


def _no_access(name: str, backend: str, facts: Facts) -> Finding:
    if facts.container:
        mend = "docker run --device /dev/dri" + (" --device /dev/kfd" if backend == "ROCm" else "")
        return Finding(
            "container", f"{name} is not used: {backend} sees none in this container", mend
        )
    mend = "sudo usermod -aG video,render $USER, and log in again"
    if backend == "Vulkan":
        mend = f"install its Vulkan driver (apt install mesa-vulkan-drivers), or {mend}"
    return Finding("no_device", f"{name} is not used: {backend} sees no GPU", mend)


def _taken(facts: Facts) -> Iterator[Finding]:
    """GPUs whose memory other programs hold."""
    for gpu in facts.nvidia.gpus:
        others = [p for p in gpu.processes if p.pid != facts.pid and (p.held or 0) > gpu.total / 10]
        if gpu.free < gpu.total / 2 and others:
            who = ", ".join(
                f"{p.name or 'a program'} (pid {p.pid}, {_gib(p.held or 0)})" for p in others
            )
            yield Finding(
                "taken",
                f"{gpu.name} has {gpu.free / GIB:.1f}/{_gib(gpu.total)} free; held by {who}",
                "close them for more layers on the GPU",
            )


def _name(vendor: str, facts: Facts) -> str:
    if vendor == "NVIDIA" and facts.nvidia.gpus:
        return ", ".join(_shown(gpu) for gpu in facts.nvidia.gpus)
    return f"an {vendor} GPU"


def _shown(gpu: Gpu) -> str:
    return f"{gpu.name} ({_gib(gpu.total)})" if gpu.total else gpu.name


def _is_integrated(vendor: str, facts: Facts) -> bool:
    """It may well be slower than the processor beside it; but for Apple's."""
    adapters = [adapter for adapter in facts.adapters if adapter.vendor == vendor]
    return vendor != "Apple" and bool(adapters) and all(a.integrated for a in adapters)


def _spoken(backend: str) -> str:
    return "Metal" if backend == "MTL" else backend


def _gib(size: int) -> str:
    return f"{size / GIB:.1f} GiB"
