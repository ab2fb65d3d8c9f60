"""Why a GPU is not used: made-up machines, and what is said of each."""

from __future__ import annotations

import io
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from portable.chat.options import ChatOptions
from portable.chat.run import run
from portable.engine.adapters import Adapter, find_adapters
from portable.engine.config import EngineConfig
from portable.engine.findings import RELOAD, Facts, Finding, find
from portable.engine.gpus import look
from portable.engine.inspection import examine
from portable.engine.nvidia import Gpu, Nvidia, Process
from portable.engine.offload.device import GIB, Device, Kind
from portable.engine.sequence import SamplingParams
from portable.errors import EngineError

GPU = Gpu(0, "RTX 3050", "0000:01:00.0", (8, 6), 4 * GIB, 3 * GIB)
DRIVER = Nvidia("535.183.01", "12.2", (GPU,))
NVIDIA = Adapter("NVIDIA", "0000:01:00.0", "nvidia")
INTEL = Adapter("Intel", "0000:00:02.0", "i915", integrated=True)
RADEON = Adapter("AMD", "0000:03:00.0", "amdgpu")
CPU = Facts(backends=("RPC", "CPU"))
CUDA = Facts(backends=("CUDA", "RPC", "CPU"), adapters=(NVIDIA,), nvidia=DRIVER)


def seen(name: str, description: str, backend: str) -> Device:
    kind: Kind = "rpc" if backend == "RPC" else "gpu"
    return Device(name, description, 3 * GIB, 4 * GIB, kind, backend)


def says(error: str) -> str:
    """A line of ggml-cuda.cu's, by its source; CUDA's own words are from its documentation."""
    return f"ggml_cuda_init: failed to initialize CUDA: {error}"


def only(facts: Facts) -> Finding:
    (found,) = find(facts)
    return found


def test_nothing_is_said_where_there_is_nothing_or_all_is_used() -> None:
    assert find(CPU) == [] and find(replace(CPU, nvidia=Nvidia(trouble="library"))) == []
    assert find(replace(CUDA, devices=[seen("CUDA0", "RTX 3050", "CUDA")])) == []
    vulkan = replace(CUDA, backends=("Vulkan", "CPU"), adapters=(NVIDIA, INTEL))
    names = ("NVIDIA GeForce RTX 3050", "Intel(R) Iris(R) Xe Graphics")
    assert (
        find(
            replace(vulkan, devices=[seen(f"Vulkan{n}", d, "Vulkan") for n, d in enumerate(names)])
        )
        == []
    )


def test_a_gpu_without_its_backend() -> None:
    found = only(replace(CUDA, backends=("CPU",), build=lambda backend: f"build {backend}"))
    assert found.code == "no_backend" and found.mend == "build CUDA" and not found.note
    assert found.what == "RTX 3050 (4.0 GiB) is not used: llama.cpp is built without CUDA"
    assert only(replace(CPU, adapters=(RADEON,))).what.endswith("built without ROCm")
    assert only(replace(CPU, adapters=(Adapter("Apple"),))).what.endswith("built without Metal")
    assert "portable doctor" in str(only(replace(CPU, adapters=(RADEON,))))


def test_a_gpu_beside_the_processor_warns_nobody() -> None:
    assert only(replace(CPU, adapters=(INTEL,))).note
    assert not only(replace(CPU, adapters=(INTEL, replace(INTEL, integrated=False)))).note


def test_a_worker_is_no_gpu_of_this_machine() -> None:
    found = only(replace(CPU, adapters=(RADEON,), devices=[seen("RPC0", "127.0.0.1:50052", "RPC")]))
    assert found.code == "no_backend"


@pytest.mark.parametrize(
    ("error", "code", "words"),
    [
        (
            "CUDA driver version is insufficient for CUDA runtime version",
            "driver_old",
            "12.2 at most",
        ),
        ("unknown error", "resumed", RELOAD),
        (
            "system has unsupported display driver / cuda driver combination",
            "driver_mismatch",
            "restart",
        ),
        ("all CUDA-capable devices are busy or unavailable", "busy", "nvidia-smi"),
        ("initialization error", "other", "CUDA says: initialization error"),
    ],
)
def test_what_cuda_says(error: str, code: str, words: str) -> None:
    found = only(replace(CUDA, said=says(error)))
    assert found.code == code and words in str(found)


def test_a_hidden_gpu() -> None:
    hidden = replace(CUDA, environment={"CUDA_VISIBLE_DEVICES": ""})
    found = only(replace(hidden, said=says("no CUDA-capable device is detected")))
    assert found.code == "hidden" and found.mend == "unset CUDA_VISIBLE_DEVICES"


@pytest.mark.parametrize(
    ("facts", "code", "words"),
    [
        (
            replace(CUDA, container=True, nvidia=Nvidia(trouble="library")),
            "container",
            "--gpus all",
        ),
        (replace(CUDA, nvidia=Nvidia(trouble="library")), "driver_missing", "not installed"),
        (
            replace(
                CPU, adapters=(replace(NVIDIA, driver="nouveau"),), nvidia=Nvidia(trouble="library")
            ),
            "driver_missing",
            "nouveau",
        ),
        (replace(CPU, nvidia=Nvidia(trouble="driver")), "driver_missing", "sudo modprobe nvidia"),
        (replace(CPU, nvidia=Nvidia(trouble="mismatch")), "driver_mismatch", "restart"),
        (replace(CUDA, nvidia=Nvidia(trouble="permission")), "permission", "usermod"),
        (replace(CUDA, nvidia=Nvidia(trouble="lost")), "lost", "restart"),
    ],
)
def test_a_driver_that_does_not_work(facts: Facts, code: str, words: str) -> None:
    found = only(facts)
    assert found.code == code and words in str(found)


def test_a_backend_that_is_there_and_cannot_be_loaded() -> None:
    words = "libcudart.so.12: cannot open shared object file: No such file or directory"
    found = only(replace(CUDA, backends=("CPU",), unloaded={"CUDA": words}))
    assert found.code == "unloaded" and "libcudart.so.12" in found.what and "toolkit" in found.mend


def test_no_device_of_another_maker_is_taken_for_it() -> None:
    facts = replace(CPU, backends=("Vulkan", "CPU"), adapters=(RADEON,))
    llvmpipe = [seen("Vulkan0", "llvmpipe (LLVM 15.0.7, 256 bits)", "Vulkan")]
    found = only(replace(facts, devices=llvmpipe))
    assert found.code == "no_device" and "mesa-vulkan-drivers" in found.mend
    assert "--device /dev/dri" in only(replace(facts, container=True)).mend


def test_a_backends_file_that_is_broken_is_told_of(tmp_path: Path) -> None:
    (tmp_path / "libggml-vulkan.so").write_bytes(b"not a library")
    assert list(look(["CPU"], [], folder=tmp_path).unloaded) == ["Vulkan"]
    assert not look(["Vulkan"], [], folder=tmp_path).unloaded


def test_who_holds_the_memory() -> None:
    held = (Process(4711, "blender", 3 * GIB), Process(7, "portable", GIB // 2))
    full = replace(GPU, free=GIB // 2, processes=held)
    facts = replace(CUDA, nvidia=replace(DRIVER, gpus=(full,)), pid=7)
    found = only(replace(facts, devices=[seen("CUDA0", "RTX 3050", "CUDA")]))
    assert found.code == "taken" and "0.5/4.0 GiB free" in found.what
    assert "blender (pid 4711, 3.0 GiB)" in found.what and "portable" not in found.what


def test_adapters_are_read_from_the_system(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platform.system", lambda: "Linux")

    def card(bus: str, vendor: str, kind: str, driver: str = "", memory: int = 0) -> None:
        folder = tmp_path / "devices" / bus
        folder.mkdir(parents=True)
        (folder / "vendor").write_text(vendor + "\n")
        (folder / "class").write_text(kind + "\n")
        if memory:
            (folder / "mem_info_vram_total").write_text(f"{memory}\n")
        if driver:
            (tmp_path / driver).mkdir(exist_ok=True)
            (folder / "driver").symlink_to(tmp_path / driver)

    card("0000:00:02.0", "0x8086", "0x030000", "i915")
    card("0000:01:00.0", "0x10de", "0x030200", "nvidia")
    card("0000:02:00.0", "0x8086", "0x020000", "e1000e")  # a network card
    card("0000:03:00.0", "0x1002", "0x038000", "amdgpu", memory=8 * GIB)
    card("0000:04:00.0", "0x1002", "0x030000", "amdgpu", memory=GIB // 2)
    card("0000:05:00.0", "0x1af4", "0x030000", "virtio-pci")
    card("0000:06:00.0", "0x10de", "0x030000")
    assert find_adapters(tmp_path / "devices") == (
        Adapter("Intel", "0000:00:02.0", "i915", integrated=True),
        Adapter("NVIDIA", "0000:01:00.0", "nvidia"),
        Adapter("AMD", "0000:03:00.0", "amdgpu"),
        Adapter("AMD", "0000:04:00.0", "amdgpu", integrated=True),
        Adapter("NVIDIA", "0000:06:00.0"),
    )
    assert find_adapters(tmp_path / "none") == ()


def test_a_model_on_the_cpu_tells_of_the_gpu_it_could_have_had(
    smollm2: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("portable.engine.gpus.find_adapters", lambda: (RADEON, INTEL))
    monkeypatch.setattr("sys.stdin", io.StringIO(""))
    said: list[str] = []
    config = EngineConfig(smollm2, context=512, slots=1, threads=1)
    options = ChatOptions(prompt="Hi", params=SamplingParams(max_tokens=1))
    run(config, options, said.append)
    (warning,) = [line for line in said if line.startswith("warning: ")]
    assert "an AMD GPU is not used: llama.cpp is built without ROCm" in warning
    assert examine(replace(config, gpu_layers=0), ()) == []  # as it was asked for


@pytest.mark.parametrize(
    ("error", "told"),
    [("unknown error", RELOAD), ("an illegal memory access was encountered", "nvidia-smi")],
)
def test_a_gpu_that_fails_at_work_is_told_and_not_only_aborted_on(error: str, told: str) -> None:
    done = abort(error)
    assert done.returncode == EngineError.exit_code
    assert f"the GPU failed: CUDA error: {error}" in done.stderr and told in done.stderr


def test_a_want_of_memory_is_an_abort_as_before() -> None:
    done = abort("out of memory")
    assert done.returncode == -signal.SIGABRT and "the GPU failed" not in done.stderr


def abort(error: str) -> subprocess.CompletedProcess[str]:
    """ggml's own abort in another process, after the lines that ggml-cuda.cu writes before it."""
    code = (
        "from portable.engine.native import LOG, libggml, start\n"
        "from portable.engine.rpc.lost import GUARD\n"
        "start(); GUARD.install(())\n"
        f"LOG.append('CUDA error: {error}\\n  current device: 0, in function f at a.cu:1\\n')\n"
        "libggml.ggml_abort(b'a.cu', 1, b'CUDA error')"
    )
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
