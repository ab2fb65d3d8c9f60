"""NVIDIA's GPUs as their driver tells of them through NVML; else why it tells nothing."""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import PureWindowsPath
from typing import Any, Literal

import psutil

Trouble = Literal["", "library", "driver", "mismatch", "permission", "lost", "other"]

# NVML's error codes that mean something to whoever owns the machine.
_TROUBLES: dict[int, Trouble] = {
    12: "library",  # LIBRARY_NOT_FOUND
    9: "driver",  # DRIVER_NOT_LOADED
    18: "mismatch",  # LIB_RM_VERSION_MISMATCH
    4: "permission",  # NO_PERMISSION
    15: "lost",  # GPU_IS_LOST
    16: "lost",  # RESET_REQUIRED
}


@dataclass(frozen=True, slots=True)
class Process:
    """A program that holds a GPU's memory; `held` bytes, None where the driver does not tell."""

    pid: int
    name: str
    held: int | None


@dataclass(frozen=True, slots=True)
class Gpu:
    """One GPU, by NVML's index; memory in bytes, 0 where it shares the host's.

    `bus` is its PCI address, as in ggml's device ids: "0000:01:00.0".
    """

    index: int
    name: str
    bus: str = ""
    capability: tuple[int, int] = (0, 0)
    total: int = 0
    free: int = 0
    processes: tuple[Process, ...] = ()


@dataclass(frozen=True, slots=True)
class Nvidia:
    """What NVML says: `cuda` is the newest CUDA version that the driver runs, e.g. "12.8".

    `trouble` and `words` say why no GPU is told of, or why one is missing.
    """

    driver: str = ""
    cuda: str = ""
    gpus: tuple[Gpu, ...] = ()
    trouble: Trouble = ""
    words: str = ""

    def held_by(self, pid: int) -> int | None:
        """Bytes that a process holds on all GPUs; None if the driver does not tell."""
        held = [p.held for gpu in self.gpus for p in gpu.processes if p.pid == pid]
        known = [size for size in held if size is not None]
        return sum(known) if known and len(known) == len(held) else None


def ask(nvml: Any = None) -> Nvidia:
    """What is there now. `nvml` is the module `pynvml`. Takes some milliseconds; never raises."""
    try:
        nvml = nvml or importlib.import_module("pynvml")
        nvml.nvmlInit()
    except Exception as error:
        return Nvidia(trouble=_trouble(error), words=str(error))
    try:
        return _ask(nvml)
    except Exception as error:
        return Nvidia(trouble=_trouble(error), words=str(error))
    finally:
        with contextlib.suppress(Exception):
            nvml.nvmlShutdown()


def _ask(nvml: Any) -> Nvidia:
    version = int(_or(0, nvml.nvmlSystemGetCudaDriverVersion_v2))
    cuda = f"{version // 1000}.{version % 1000 // 10}" if version else ""
    gpus: list[Gpu] = []
    trouble: Trouble = ""
    words = ""
    for index in range(nvml.nvmlDeviceGetCount()):
        try:
            gpus.append(_gpu(nvml, index))
        except Exception as error:  # one that fell off the bus does not hide the others
            trouble, words = _trouble(error), f"GPU {index}: {error}"
    return Nvidia(
        _text(_or("", nvml.nvmlSystemGetDriverVersion)), cuda, tuple(gpus), trouble, words
    )


def _gpu(nvml: Any, index: int) -> Gpu:
    handle = nvml.nvmlDeviceGetHandleByIndex(index)
    memory = _or(None, nvml.nvmlDeviceGetMemoryInfo, handle)  # not where it is the host's
    bus = _or(None, nvml.nvmlDeviceGetPciInfo, handle)
    return Gpu(
        index,
        _text(nvml.nvmlDeviceGetName(handle)),
        _text(bus.busId).lower()[-12:] if bus else "",  # NVML's PCI domain has 8 digits
        tuple(_or((0, 0), nvml.nvmlDeviceGetCudaComputeCapability, handle)),
        int(memory.total) if memory else 0,
        int(memory.free) if memory else 0,
        tuple(_processes(nvml, handle)),
    )


def _processes(nvml: Any, handle: Any) -> Iterator[Process]:
    """Those that hold most come first; a program that draws and computes is listed twice."""
    found: dict[int, int | None] = {}
    for ask_for in (
        nvml.nvmlDeviceGetComputeRunningProcesses,
        nvml.nvmlDeviceGetGraphicsRunningProcesses,
    ):
        for each in _or((), ask_for, handle):
            found[each.pid] = max(
                filter(None, (each.usedGpuMemory, found.get(each.pid))), default=None
            )
    for pid, size in sorted(found.items(), key=lambda pair: -(pair[1] or 0)):
        yield Process(pid, _name(nvml, pid), size)


def _name(nvml: Any, pid: int) -> str:
    """Of a process outside this container only the driver may know it."""
    with contextlib.suppress(psutil.Error):
        return str(psutil.Process(pid).name())
    path = _text(_or("", nvml.nvmlSystemGetProcessName, pid))
    return PureWindowsPath(path).name  # takes slashes of both kinds


def _or(otherwise: Any, function: Any, *given: Any) -> Any:
    """What a function says, or `otherwise` where this driver or GPU has no answer."""
    try:
        return function(*given)
    except Exception:
        return otherwise


def _text(said: str | bytes) -> str:
    return said.decode("utf-8", "replace") if isinstance(said, bytes) else said


def _trouble(error: Exception) -> Trouble:
    if isinstance(error, ImportError):
        return "library"
    return _TROUBLES.get(getattr(error, "value", 0), "other")
