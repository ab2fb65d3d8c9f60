"""The graphics adapters that the system knows, whether or not anything can compute on them."""

from __future__ import annotations

import contextlib
import os
import platform
from dataclasses import dataclass
from pathlib import Path

_VENDORS = {0x10DE: "NVIDIA", 0x1002: "AMD", 0x8086: "Intel"}
_DISPLAY = 0x03  # the PCI class of display controllers
# Bytes. An AMD GPU with less memory of its own shares the host's.
_LEAST_MEMORY = 3 << 29


@dataclass(frozen=True, slots=True)
class Adapter:
    """A GPU by its vendor ("NVIDIA", "AMD", "Intel", "Apple") and PCI address.

    `driver` is the kernel's, "" where it has none; one that is `integrated` shares the host's
    memory.
    """

    vendor: str
    bus: str = ""
    driver: str = ""
    integrated: bool = False


def find_adapters(devices: Path = Path("/sys/bus/pci/devices")) -> tuple[Adapter, ...]:
    """Those of the vendors that llama.cpp has backends for; on Linux and on Apple's own chips."""
    if platform.system() == "Darwin" and platform.machine() == "arm64":
        return (Adapter("Apple", driver="Metal", integrated=True),)
    found = []
    with contextlib.suppress(OSError):
        for folder in sorted(devices.iterdir()):
            vendor = _VENDORS.get(_number(folder / "vendor"), "")
            if vendor and _number(folder / "class") >> 16 == _DISPLAY:
                driver = folder / "driver"
                name = driver.resolve().name if driver.exists() else ""
                found.append(Adapter(vendor, folder.name, name, _is_integrated(vendor, folder)))
    return tuple(found)


def is_container() -> bool:
    """Whether this process runs in one, which may hide GPUs that the machine has."""
    told = "KUBERNETES_SERVICE_HOST" in os.environ
    return told or any(map(os.path.exists, ("/.dockerenv", "/run/.containerenv")))


def _is_integrated(vendor: str, folder: Path) -> bool:
    if vendor == "AMD":
        memory = _number(folder / "mem_info_vram_total")  # told by the driver amdgpu alone
        return 0 < memory < _LEAST_MEMORY
    # Intel's own place for the GPU in its processors.
    return vendor == "Intel" and folder.name == "0000:00:02.0"


def _number(path: Path) -> int:
    with contextlib.suppress(OSError, ValueError):
        return int(path.read_text(encoding="ascii"), 0)
    return 0
