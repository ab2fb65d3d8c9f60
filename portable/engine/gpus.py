"""What the system tells of its GPUs, gathered: the facts that findings are made from."""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from portable.engine import nvidia
from portable.engine.adapters import Adapter, find_adapters, is_container
from portable.engine.findings import Facts
from portable.engine.offload.device import Device

# The names of backends' files, where each is a file of its own, and ggml's of the backends.
_FILES = {"cuda": "CUDA", "hip": "ROCm", "vulkan": "Vulkan", "sycl": "SYCL", "metal": "MTL"}


def look(
    backends: Sequence[str],
    devices: Sequence[Device],
    said: str = "",
    folder: Path | None = None,
) -> Facts:
    """What is there, beside what llama.cpp has and sees and `said` of it.

    `folder` is where its libraries are. Takes some milliseconds, more where NVIDIA's driver wakes.
    """
    adapters = find_adapters()
    return Facts(
        backends=backends,
        devices=devices,
        adapters=adapters,
        nvidia=nvidia.ask() if _may_have_nvidia(adapters, backends) else nvidia.Nvidia(),
        environment=os.environ,
        container=is_container(),
        said=said,
        unloaded=dict(_unloaded(folder, backends)) if folder else {},
        pid=os.getpid(),
    )


def _may_have_nvidia(adapters: Sequence[Adapter], backends: Sequence[str]) -> bool:
    """Whether it is worth the time to ask."""
    told = any(adapter.vendor == "NVIDIA" for adapter in adapters) or "CUDA" in backends
    # Windows has no list of adapters here, and in its subsystem for Linux GPUs are none of PCI's.
    return (
        told or sys.platform == "win32" or any(map(os.path.exists, ("/dev/dxg", "/dev/nvidiactl")))
    )


def _unloaded(folder: Path, backends: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Backends that were built and are not there, and the loader's words."""
    for file, backend in _FILES.items():
        for path in folder.glob(f"*ggml-{file}.*"):
            if backend not in backends:
                try:
                    ctypes.CDLL(str(path))
                except OSError as error:
                    yield backend, str(error)
                break
