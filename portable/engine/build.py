"""How llama.cpp is built or installed for a machine: the flags and the pip line; pure.

The one home of these flags: README's and Makefile's lines are held to it by a test.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import importlib.util
import re
import shlex
import sys
from dataclasses import dataclass
from typing import Literal

Backend = Literal["cpu", "cuda", "vulkan", "metal", "rocm"]

# RPC lets a machine lend its memory to another: portable worker, --rpc.
_ALWAYS = "-DGGML_RPC=ON"
# llama-cpp-python puts no backend of such a build into its package, but for the last of these.
_DYNAMIC = (
    "-DGGML_BACKEND_DL=ON -DGGML_CPU_ALL_VARIANTS=ON -DGGML_NATIVE=OFF"
    " -DCMAKE_INSTALL_BINDIR=llama_cpp/lib"
)
_FLAGS: dict[Backend, str] = {
    "cpu": "",
    "cuda": "-DGGML_CUDA=ON",
    "vulkan": "-DGGML_VULKAN=ON",
    "metal": "-DGGML_METAL=ON",
    "rocm": "-DGGML_HIP=ON",
}
_ARCHITECTURES: dict[Backend, str] = {
    "cuda": "-DCMAKE_CUDA_ARCHITECTURES",
    "rocm": "-DGPU_TARGETS",
}
# What ggml's registry calls a backend that these flags compile in.
REGISTERED: dict[Backend, str] = {
    "cpu": "CPU",
    "cuda": "CUDA",
    "vulkan": "Vulkan",
    "metal": "MTL",
    "rocm": "ROCm",
}
# Versions of CUDA that llama-cpp-python's page lists prebuilt wheels for.
_CUDA_WHEELS = ((11, 8), (12, 1), (12, 2), (12, 3), (12, 4), (12, 5), (13, 0), (13, 2))
WHEELS_PAGE = "https://github.com/abetlen/llama-cpp-python#installation"


@dataclass(frozen=True, slots=True)
class Target:
    """What to build for; `architectures` are those of its GPUs: `86` of CUDA, `gfx1100` of ROCm.

    Without them all that the toolkit knows are built, which takes long. A `dynamic` build has each
    backend as a file of its own, of which those are loaded that run where it runs, and a CPU
    backend for each generation of processors.
    """

    backend: Backend
    architectures: tuple[str, ...] = ()
    dynamic: bool = False


def flags(target: Target) -> str:
    """What CMAKE_ARGS has to hold."""
    option = _ARCHITECTURES.get(target.backend)
    named = f"{option}={';'.join(target.architectures)}" if option and target.architectures else ""
    dynamic = _DYNAMIC if target.dynamic else ""
    return " ".join(filter(None, (_FLAGS[target.backend], named, _ALWAYS, dynamic)))


def command(target: Target, system: str = sys.platform) -> str:
    """The line that builds llama.cpp for it, into the environment that runs this program.

    For a POSIX shell, or for PowerShell on Windows.
    """
    name = "llama-cpp-python"
    rest = f"--force-reinstall --no-deps --no-cache-dir --no-binary {name} {pin()}"
    if system == "win32":
        return f'$env:CMAKE_ARGS="{flags(target)}"; & {installer(system)} {rest}'
    return f'CMAKE_ARGS="{flags(target)}" {installer(system)} {rest}'


def wheel(target: Target, cuda: str, system: str = sys.platform) -> str:
    """The line that installs a prebuilt one; INDEX stands for an address of WHEELS_PAGE.

    `cuda` is the newest version that the driver runs. Empty when the page lists none.
    """
    if not (variant := _variant(target, cuda)):
        return ""
    call = "& " if system == "win32" else ""
    return (
        f"{call}{installer(system)} --force-reinstall --no-deps --only-binary llama-cpp-python"
        f" {pin()} --extra-index-url INDEX   # INDEX: the one for {variant} of {WHEELS_PAGE}"
    )


def _variant(target: Target, cuda: str) -> str:
    """The page's name of the wheels, by what they ask of driver and GPU."""
    if target.backend == "rocm":
        return "rocm72"
    if target.backend != "cuda":
        return target.backend
    # 0 stands for a GPU that is not known.
    oldest = min((_number(a) for a in target.architectures), default=0)
    newest = max((_number(a) for a in target.architectures), default=0)
    runs = tuple(int(part) for part in re.findall(r"\d+", cuda)[:2])
    fits = [
        version
        for version in _CUDA_WHEELS
        if version <= runs
        and (version[0] != 11 or newest <= 89)
        and (version[0] != 13 or not oldest or oldest >= 75)
    ]
    return "cu" + "".join(map(str, fits[-1])) if fits else ""


def _number(architecture: str) -> int:
    return int(re.sub(r"\D", "", architecture) or 0)


def pin() -> str:
    """The llama-cpp-python that this program is made for, as pip names it."""
    for requirement in requirements():
        if found := re.match(r"llama-cpp-python==[\w.]+", requirement):
            return found[0]
    return "llama-cpp-python"  # not installed, but run from its source


def requirements() -> list[str]:
    """What this program needs, as its metadata says; nothing when it is run from its source."""
    try:
        return importlib.metadata.requires("portable-llm") or []
    except importlib.metadata.PackageNotFoundError:
        return []


def installer(system: str = sys.platform) -> str:
    """pip of this environment; uv makes some that have none."""
    quoted = f'"{sys.executable}"' if system == "win32" else shlex.quote(sys.executable)
    if importlib.util.find_spec("pip"):
        return f"{quoted} -m pip install"
    return f"uv pip install --python {quoted}"


def main() -> None:
    """`python -m portable.engine.build cuda 86 --dynamic` prints the flags."""
    parser = argparse.ArgumentParser(prog="portable.engine.build")
    parser.add_argument("backend", choices=_FLAGS)
    parser.add_argument("architectures", nargs="*")
    parser.add_argument("--dynamic", action="store_true")
    given = parser.parse_args()
    print(flags(Target(given.backend, tuple(given.architectures), given.dynamic)))


if __name__ == "__main__":
    main()
