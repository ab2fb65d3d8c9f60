"""What llama.cpp would be built with here: a compiler, CUDA's or ROCm's toolkit, Vulkan's."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from portable.doctor.finding import Finding
from portable.engine.build import Target

Version = tuple[int, int]
_NODES = Path("/sys/class/kfd/kfd/topology/nodes")
# The first CUDA that compiles for these compute capabilities and above, and the capability below
# which CUDA 13 compiles for none.
_SINCE: dict[int, Version] = {80: (11, 0), 86: (11, 1), 89: (11, 8), 100: (12, 8), 120: (12, 8)}
_OLDEST_OF_13 = 75
_COMPILER = {
    "linux": "sudo apt install build-essential   # dnf: gcc-c++, apk: build-base",
    "darwin": "xcode-select --install",
    "win32": "winget install Microsoft.VisualStudio.2022.BuildTools",
}


@dataclass(frozen=True)
class Tools:
    """`compiler` of C++, `cuda` the version of nvcc, `rocm` and `vulkan` whether their compilers
    are there; `gfx` are ROCm's names of the GPUs."""

    compiler: bool = False
    cuda: Version | None = None
    rocm: bool = False
    vulkan: bool = False
    gfx: tuple[str, ...] = ()


def gather() -> Tools:
    return Tools(
        compiler=_has_compiler(),
        cuda=_nvcc(),
        rocm=bool(shutil.which("hipcc") or shutil.which("hipcc", path="/opt/rocm/bin")),
        vulkan=bool(shutil.which("glslc")),
        gfx=tuple(sorted(set(_gfx(_NODES)))),
    )


def judge(facts: Tools, target: Target, driver: str, kind: str = sys.platform) -> Iterator[Finding]:
    """What is missing to build for the target. `driver` is the newest CUDA that it runs, "12.4"."""
    if not facts.compiler:
        command = _COMPILER.get(kind, "")
        yield Finding("compiler", "WARN", "no C++ compiler to build llama.cpp with", "", command)
    if target.backend == "cuda":
        yield _cuda(facts.cuda, target, _version(driver))
    if target.backend == "vulkan" and not facts.vulkan:
        command = "sudo apt install glslc libvulkan-dev" if kind == "linux" else ""
        yield Finding("vulkan", "WARN", "no Vulkan SDK to build with", "install it", command)


def _cuda(toolkit: Version | None, target: Target, driver: Version | None) -> Finding:
    name, capabilities = "cuda", [int(a) for a in target.architectures]
    most = f"{driver[0]}.x" if driver else "that the driver runs"
    if toolkit is None:
        mend = (
            f"install CUDA toolkit {most} and put its bin folder on PATH, or take a wheel (below)"
        )
        return Finding(name, "WARN", "no CUDA toolkit (nvcc) to build with", mend)
    found = f"CUDA toolkit {_spoken(toolkit)}"
    if driver and toolkit[0] > driver[0]:
        what = f"{found} is newer than the driver, which runs CUDA {_spoken(driver)}"
        return Finding(name, "WARN", what, f"update the driver, or install toolkit {most}")
    if toolkit[0] >= 13 and min(capabilities, default=_OLDEST_OF_13) < _OLDEST_OF_13:
        what = f"{found} does not compile for this GPU (compute capability below 7.5)"
        return Finding(name, "WARN", what, "install toolkit 12.x")
    needed = max((_SINCE[c] for c in _SINCE if c <= max(capabilities, default=0)), default=(0, 0))
    if toolkit < needed:
        what = f"{found} is too old for this GPU"
        return Finding(name, "WARN", what, f"install toolkit {_spoken(needed)} or newer")
    return Finding(name, "OK", f"{found} builds for this GPU")


def _has_compiler() -> bool:
    if sys.platform == "win32":
        folder = os.environ.get("PROGRAMFILES(X86)", "C:\\")
        visual = Path(folder, "Microsoft Visual Studio", "Installer", "vswhere.exe")
        return visual.exists() or bool(shutil.which("cl") or shutil.which("g++"))
    if sys.platform == "darwin":  # its c++ is a stub that asks for the tools to be installed
        return Path("/Library/Developer/CommandLineTools/usr/bin/c++").exists() or bool(
            shutil.which("xcodebuild", path="/Applications/Xcode.app/Contents/Developer/usr/bin")
        )
    return any(map(shutil.which, ("c++", "g++", "clang++")))


def _nvcc() -> Version | None:
    folders = [os.environ.get("CUDA_PATH"), os.environ.get("CUDA_HOME"), "/usr/local/cuda"]
    places = [None, *(str(Path(folder, "bin")) for folder in folders if folder)]
    nvcc = next(filter(None, (shutil.which("nvcc", path=place) for place in places)), None)
    if nvcc is None:
        return None
    with contextlib.suppress(OSError, subprocess.TimeoutExpired):
        done = subprocess.run([nvcc, "--version"], capture_output=True, text=True, timeout=5)
        if found := re.search(r"release (\d+\.\d+)", done.stdout):
            return _version(found[1])
    return None


def _gfx(nodes: Path) -> Iterator[str]:
    """`gfx_target_version 90402` is gfx942; a processor has 0."""
    for path in nodes.glob("*/properties"):
        with contextlib.suppress(OSError, ValueError):
            words = dict(line.split() for line in path.read_text(encoding="ascii").splitlines())
            if number := int(words.get("gfx_target_version", 0)):
                yield f"gfx{number // 10000}{number // 100 % 100:x}{number % 100:x}"


def _version(text: str) -> Version | None:
    found = re.match(r"(\d+)\.(\d+)", text)
    return (int(found[1]), int(found[2])) if found else None


def _spoken(version: Version) -> str:
    return ".".join(map(str, version))
