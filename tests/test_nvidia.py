"""NVIDIA's library, as it answers and as it fails; a stand-in for it: there is no GPU here."""

from __future__ import annotations

import os
from types import SimpleNamespace
from typing import Any

import psutil
import pynvml
import pytest

from portable.engine import nvidia

GIB = 1 << 30


class Nvml:
    """Answers as `pynvml` does, for one laptop's GPU; `fails` maps a function to an error code."""

    def __init__(self, fails: dict[str, int] | None = None, gpus: int = 1) -> None:
        self.fails = fails or {}
        self.gpus = gpus
        self.shut = 0

    def __getattr__(self, name: str) -> Any:
        def call(*given: Any) -> Any:
            if name in self.fails:
                raise pynvml.NVMLError(self.fails[name])
            return getattr(self, f"_{name.removeprefix('nvml')}")(*given)

        assert hasattr(pynvml, name), name
        return call

    def _Init(self) -> None: ...

    def _Shutdown(self) -> None:
        self.shut += 1

    def _SystemGetDriverVersion(self) -> bytes:
        return b"535.183.01"

    def _SystemGetCudaDriverVersion_v2(self) -> int:
        return 12020

    def _DeviceGetCount(self) -> int:
        return self.gpus

    def _DeviceGetHandleByIndex(self, index: int) -> int:
        if index:
            raise pynvml.NVMLError(pynvml.NVML_ERROR_GPU_IS_LOST)
        return index

    def _DeviceGetName(self, _handle: int) -> str:
        return "NVIDIA GeForce RTX 3050 Laptop GPU"

    def _DeviceGetPciInfo(self, _handle: int) -> Any:
        return SimpleNamespace(busId="00000000:01:00.0")

    def _DeviceGetCudaComputeCapability(self, _handle: int) -> tuple[int, int]:
        return 8, 6

    def _DeviceGetMemoryInfo(self, _handle: int) -> Any:
        return SimpleNamespace(total=4 * GIB, free=3 * GIB, used=GIB)

    def _DeviceGetComputeRunningProcesses(self, _handle: int) -> list[Any]:
        return [
            SimpleNamespace(pid=4_000_000_000, usedGpuMemory=100),
            SimpleNamespace(pid=os.getpid(), usedGpuMemory=700),
        ]

    def _DeviceGetGraphicsRunningProcesses(self, _handle: int) -> list[Any]:
        return [SimpleNamespace(pid=os.getpid(), usedGpuMemory=None)]

    def _SystemGetProcessName(self, _pid: int) -> bytes:
        return b"/usr/bin/blender"


def test_what_there_is_and_who_holds_its_memory() -> None:
    nvml = Nvml()
    told = nvidia.ask(nvml)
    gpu = nvidia.Gpu(
        0,
        "NVIDIA GeForce RTX 3050 Laptop GPU",
        "0000:01:00.0",
        (8, 6),
        4 * GIB,
        3 * GIB,
        (
            nvidia.Process(os.getpid(), psutil.Process().name(), 700),
            nvidia.Process(4_000_000_000, "blender", 100),
        ),
    )
    assert told == nvidia.Nvidia("535.183.01", "12.2", (gpu,)) and nvml.shut == 1
    assert told.held_by(os.getpid()) == 700 and told.held_by(1) is None


@pytest.mark.parametrize(
    ("code", "trouble"),
    [
        (pynvml.NVML_ERROR_LIBRARY_NOT_FOUND, "library"),
        (pynvml.NVML_ERROR_DRIVER_NOT_LOADED, "driver"),
        (pynvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH, "mismatch"),
        (pynvml.NVML_ERROR_NO_PERMISSION, "permission"),
        (pynvml.NVML_ERROR_UNKNOWN, "other"),
    ],
)
def test_why_nothing_is_told(code: int, trouble: str) -> None:
    told = nvidia.ask(Nvml({"nvmlInit": code}))
    assert told.trouble == trouble and told.words and not told.gpus


def test_a_lost_gpu_does_not_hide_the_others() -> None:
    told = nvidia.ask(Nvml(gpus=2))
    assert len(told.gpus) == 1 and told.trouble == "lost" and told.words.startswith("GPU 1")


def test_what_a_driver_or_a_gpu_does_not_tell_is_left_out() -> None:
    """Integrated GPUs have no memory of their own, Windows tells no process's share."""
    kinds = ("MemoryInfo", "PciInfo", "ComputeRunningProcesses", "GraphicsRunningProcesses")
    fails = {f"nvmlDeviceGet{kind}": pynvml.NVML_ERROR_NOT_SUPPORTED for kind in kinds}
    told = nvidia.ask(Nvml({**fails, "nvmlSystemGetCudaDriverVersion_v2": 3}))
    assert told.cuda == "" and told.trouble == ""
    assert told.gpus[0] == nvidia.Gpu(0, "NVIDIA GeForce RTX 3050 Laptop GPU", "", (8, 6))


def test_the_installed_library_can_be_asked_on_any_machine() -> None:
    told = nvidia.ask()
    assert told.gpus or told.words
